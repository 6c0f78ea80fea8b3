"""Calls of every RPC by everybody, many at once: what was asked, what was answered, and what must not have been."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
import msgspec
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from router.policies import POLICIES as ROUTER_POLICIES
from router.routing.routes import CELL_KEY
from server.shell.identity.principal import Role
from tests.fuzz.known import ROUTER, Known, Plan
from tests.fuzz.messages import CELLS, STRANGER, TEXTS, Maker, Pool, texts_at
from tests.roles import EVERY, full_name, rpcs

# A client waits for a move or a remote bid now and then; more clients keep busy servers busy.
AT_ONCE = 48
# What is asked of the last resort: whatever the server, it answers in time.
PATIENCE_S = 20.0
TIMEOUTS_S = (*[5.0] * 18, 0.3, 0.01)
# Answers of a stream that are looked at.
STREAM_READS = 3
NEVER = frozenset({"INTERNAL", "UNKNOWN"})
# An operator's orders here name cells that are none, or the cluster would be taken apart.
ORDERS = frozenset({"RegisterCell", "SetCellWeight", "DrainCell", "MarkCellDown", "UndrainCell", "RemoveCell"})
CORPUS = Path(__file__).parent / "corpus"

METHODS: dict[str, MethodDescriptor] = {full_name(rpc): rpc for rpc in rpcs()}
# Money, auctions and sagas come more often than what merely reads.
READING = ("Get", "List", "Find", "Watch")
# What makes something for others to be about comes more often, and what ends it less.
OFTEN: dict[str, float] = {
    "RegisterAsset": 6,
    "CreateAuction": 9,
    "PlaceBid": 12,
    "Reserve": 6,
    "CloseAuction": 1,
    "CancelAuction": 1,
}
OFTEN |= {"RemoveCell": 1, "EraseContact": 1, "ListSagas": 3}
# What reads the whole log, in a process of its own, costs as much as a thousand of the others.
OFTEN |= {"Reconcile": 0.1, "Rebuild": 0.1}
WEIGHTS = {
    path: OFTEN.get(method.name, 1 if method.name.startswith(READING) else 3) for path, method in METHODS.items()
}


class Doors(Protocol):
    """How the servers are reached: "router", or a cell by its name."""

    def door(self, target: str, principal: str) -> tuple[grpc.aio.Channel, Sequence[tuple[str, str]]]:
        """The channel, and the metadata that say or prove that `principal` calls. "" is nobody."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One call, as it can be made again."""

    path: str
    target: str
    principal: str
    request: bytes
    # Which the router is told to pass it on to; empty: it is not told.
    cell: str = ""
    timeout_s: float = 5.0

    def kept(self, said: str) -> dict[str, Any]:
        """As a file of the corpus has it, with what was answered."""
        fields = {**msgspec.to_builtins(self), "said": said}
        del fields["timeout_s"]
        return fields


@dataclass(slots=True, kw_only=True)
class Findings:
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    # What must not be, with what was asked.
    wrong: list[tuple[Asked, str]] = field(default_factory=list)

    @property
    def answered(self) -> set[str]:
        """The RPCs that have been answered with OK at least once."""
        return {path for path, code in self.answers if code == "OK"}

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asked.kept(said) for asked, said in self.wrong], indent=2) + "\n")


@dataclass(slots=True)
class Player:
    """Plays the calls of a seed. What they come to differs, for servers make ids and time goes on."""

    doors: Doors
    seed: int
    at_once: int = AT_ONCE
    findings: Findings = field(default_factory=Findings)
    rng: random.Random = field(init=False)
    pool: Pool = field(init=False)
    known: Known = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.pool = Pool(self.rng)
        self.known = Known(self.rng, self.pool)

    async def play(self, calls: int) -> None:
        """At most `at_once` of them at the same moment."""
        left = iter(range(calls))

        async def client() -> None:
            for _ in left:
                await self.call(self._next())

        await asyncio.gather(*(client() for _ in range(self.at_once)))

    async def call(self, asked: Asked) -> str:
        """Makes the call; returns the name of the status."""
        said = ""
        try:
            async with asyncio.timeout(PATIENCE_S):
                answers = await self._answers(asked)
            code = "OK"
            for answer in answers:
                self.pool.harvest(answer)
                self._remember(asked, answer)
        except grpc.aio.AioRpcError as error:
            code, said = error.code().name, error.details() or ""
        except TimeoutError:
            code, said = "SILENT", f"no answer within {PATIENCE_S:.0f} s"
        self.findings.answers[asked.path, code] += 1
        if code in NEVER or code == "SILENT":
            self.findings.wrong.append((asked, f"{code}: {said}"))
        return code

    async def _answers(self, asked: Asked) -> list[Message]:
        opened, metadata = self.doors.door(asked.target, asked.principal)
        channel: Any = opened
        method, named = METHODS[asked.path], ((CELL_KEY, asked.cell),) if asked.cell else ()
        made = channel.unary_stream if method.server_streaming else channel.unary_unary
        call: Any = made(asked.path, response_deserializer=GetMessageClass(method.output_type).FromString)(
            asked.request, metadata=(*metadata, *named), timeout=asked.timeout_s
        )
        if not method.server_streaming:
            return [await call]
        answers: list[Message] = []
        try:
            # A stream that has nothing to say is one that works.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    while len(answers) < STREAM_READS and (answer := await call.read()) is not grpc.aio.EOF:
                        answers.append(answer)
        finally:
            call.cancel()
        return answers

    def _next(self) -> Asked:
        path = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        method = METHODS[path]
        maker = Maker(self.rng, self.pool, self.rng.choice((1.0, 1.0, 0.95, 0.7, 0.2)))
        target = ROUTER if path in ROUTER_POLICIES else self.rng.choice((ROUTER, ROUTER, *CELLS))
        request: Any = maker.message(method.input_type)
        plan = Plan(path=path, principal=self._principal(path), request=request, target=target)
        role, _, name = plan.principal.partition("/")
        subject_field = EVERY[path].subject_field
        if role == Role.USER and subject_field is not None and self.rng.random() < 0.9:
            texts_at(request, subject_field, lambda _: name)
        self.known.fit(plan)
        if method.name in ORDERS and request.name in CELLS:
            request.name = STRANGER
        content = request.SerializeToString()
        if self.rng.random() < 0.02:
            # Of a newer version, perhaps.
            content += b"\xfa\x7f\x03new"
        return Asked(
            path=path,
            target=plan.target,
            principal=plan.principal,
            request=content,
            cell=plan.cell,
            timeout_s=self.rng.choice(TIMEOUTS_S),
        )

    def _remember(self, asked: Asked, answer: Message) -> None:
        request = GetMessageClass(METHODS[asked.path].input_type).FromString(asked.request)
        plan = Plan(path=asked.path, principal=asked.principal, request=request, target=asked.target, cell=asked.cell)
        self.known.remember(plan, answer)

    def _principal(self, path: str) -> str:
        """Mostly one who may."""
        may = sorted(EVERY[path].roles - {Role.DELEGATE}) if self.rng.random() < 0.85 else []
        roles = may or list(Role)
        role = self.rng.choice(roles)
        if role is Role.USER:
            return f"user/{self.pool.any('user') or '0198c0de-0000-7000-8000-00000000000a'}"
        if self.rng.random() < 0.02:
            return self.rng.choice(("", "king/george", "user/me", TEXTS[1], "service/" + "x" * 200))
        return f"{role}/{STRANGER if role is Role.PEER else 'fuzz'}"


def corpus(folder: Path = CORPUS) -> list[Asked]:
    """What was once answered wrongly. It is asked again in each run."""
    files = (msgspec.json.decode(path.read_bytes(), type=list[Asked]) for path in sorted(folder.glob("*.json")))
    return [asked for file in files for asked in file]


def shown(answers: Mapping[tuple[str, str], int]) -> str:
    """A line an RPC: how often it was answered how."""
    lines = []
    for path in sorted({path for path, _ in answers}):
        codes = sorted(((count, code) for (of, code), count in answers.items() if of == path), reverse=True)
        lines.append(f"{path.rpartition('.')[2]:40} {'  '.join(f'{code} {count:,}' for count, code in codes)}")
    return "\n".join(lines)
