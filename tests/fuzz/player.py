"""Calls of every RPC by everybody, many at once: what was asked, what was answered, and what must not have been."""

import asyncio
import base64
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
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cellbook.v1 import auction_pb2, ledger_pb2, saga_pb2
from router.policies import POLICIES as ROUTER_POLICIES
from server.shell.principal import Role
from tests.fuzz.messages import CELLS, STRANGER, TEXTS, Maker, Pool, texts_at
from tests.roles import EVERY, full_name, rpcs

ROUTER = "router"
AT_ONCE = 48
# What is asked of the last resort: whatever the server, it answers in time.
PATIENCE_S = 20.0
TIMEOUTS_S = (*[5.0] * 18, 0.3, 0.01)
# Answers of a stream that are looked at.
STREAM_READS = 3
OWNED_MAX = 100
NEVER = frozenset({"INTERNAL", "UNKNOWN"})
# An operator's orders here name cells that are none, or the town would be taken apart.
ORDERS = frozenset({"RegisterCell", "SetCellWeight", "DrainCell", "MarkCellDown", "UndrainCell", "RemoveCell"})
CORPUS = Path(__file__).parent / "corpus"

METHODS: dict[str, MethodDescriptor] = {full_name(rpc): rpc for rpc in rpcs()}
# Money, auctions and sagas come more often than what merely reads.
READING = ("Get", "List", "Find", "Watch")
# What makes something for others to be about comes more often, and what ends it less.
OFTEN = {"RegisterAsset": 6, "CreateAuction": 9, "PlaceBid": 12, "Reserve": 6, "CloseAuction": 1, "CancelAuction": 1}
WEIGHTS = {
    path: OFTEN.get(method.name, 1 if method.name.startswith(READING) else 3) for path, method in METHODS.items()
}


class Doors(Protocol):
    """How the servers are reached: "router", or a cell by its name."""

    def door(self, target: str, principal: str) -> tuple[grpc.aio.Channel, Sequence[tuple[str, str]]]:
        """The channel, and the metadata that say or prove that `principal` calls. "" is nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One call, as it can be made again."""

    path: str
    target: str
    principal: str
    request: bytes
    timeout_s: float = 5.0

    def told(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "target": self.target,
            "principal": self.principal,
            "request": base64.b64encode(self.request).decode(),
        }


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
        path.write_text(json.dumps([{**asked.told(), "said": said} for asked, said in self.wrong], indent=2) + "\n")


@dataclass(slots=True)
class Player:
    """Plays the calls of a seed. What they come to differs, for servers make ids and time goes on."""

    doors: Doors
    seed: int
    findings: Findings = field(default_factory=Findings)
    rng: random.Random = field(init=False)
    pool: Pool = field(init=False)
    # Assets and holds with their owners: by chance alone they hardly ever meet.
    assets: list[tuple[str, str]] = field(default_factory=list)
    holds: list[tuple[str, str]] = field(default_factory=list)
    # Auctions with their currencies, and sagas with their cells.
    auctions: list[tuple[str, str]] = field(default_factory=list)
    sagas: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.pool = Pool(self.rng)

    async def play(self, calls: int) -> None:
        """At most AT_ONCE of them at the same moment."""
        left = iter(range(calls))

        async def client() -> None:
            for _ in left:
                await self.call(self._next())

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))

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
        method = METHODS[asked.path]
        made = channel.unary_stream if method.server_streaming else channel.unary_unary
        call: Any = made(asked.path, response_deserializer=GetMessageClass(method.output_type).FromString)(
            asked.request, metadata=tuple(metadata), timeout=asked.timeout_s
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
        request, principal = maker.message(method.input_type), self._principal(path)
        policy = EVERY[path]
        role, _, name = principal.partition("/")
        if role == Role.USER and policy.own is not None and self.rng.random() < 0.9:
            texts_at(request, policy.own, lambda _: name)
        else:
            self._of_its_owner(request)
        if method.name in ORDERS and getattr(request, "name", "") in CELLS:
            request.name = STRANGER  # type: ignore[attr-defined]
        target = ROUTER if path in ROUTER_POLICIES else self.rng.choice((ROUTER, ROUTER, *CELLS))
        if "saga_id" in method.input_type.fields_by_name and self.sagas and self.rng.random() < 0.7:
            request.saga_id, target = self.rng.choice(self.sagas)  # type: ignore[attr-defined]
        content = request.SerializeToString()
        if self.rng.random() < 0.02:
            # Of a newer version, perhaps.
            content += b"\xfa\x7f\x03new"
        return Asked(
            path=path, target=target, principal=principal, request=content, timeout_s=self.rng.choice(TIMEOUTS_S)
        )

    def _remember(self, asked: Asked, answer: Message) -> None:
        match answer:
            case auction_pb2.RegisterAssetResponse():
                owner = auction_pb2.RegisterAssetRequest.FromString(asked.request).owner_user_id
                self.assets = [*self.assets[-OWNED_MAX:], (answer.asset, owner)]
            case ledger_pb2.ReserveResponse():
                owner = ledger_pb2.ReserveRequest.FromString(asked.request).user_id
                self.holds = [*self.holds[-OWNED_MAX:], (answer.hold_id, owner)]
            case auction_pb2.CreateAuctionResponse():
                price = auction_pb2.CreateAuctionRequest.FromString(asked.request).opening_price
                self.auctions = [*self.auctions[-OWNED_MAX:], (answer.auction, price.currency)]
            case saga_pb2.ListSagasResponse() if asked.target in CELLS:
                found = [(saga.saga_id, asked.target) for saga in answer.sagas]
                self.sagas = [*self.sagas, *found][-OWNED_MAX:]
            case _:
                pass

    def _of_its_owner(self, request: Message) -> None:
        """Mostly what is sold, captured or released is its owner's."""
        if self.rng.random() < 0.1:
            return
        match request:
            case auction_pb2.CreateAuctionRequest() if self.assets:
                request.asset, request.seller_user_id = self.rng.choice(self.assets)
            case auction_pb2.PlaceBidRequest() if self.auctions:
                request.auction, request.amount.currency = self.rng.choice(self.auctions)
                request.amount.amount_minor = self.rng.randrange(1, 10**6)
            case ledger_pb2.CaptureRequest() | ledger_pb2.ReleaseRequest() if self.holds:
                request.hold_id, request.user_id = self.rng.choice(self.holds)
            case _:
                pass

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
    kept = [each for path in sorted(folder.glob("*.json")) for each in json.loads(path.read_text())]
    return [
        Asked(
            path=each["path"],
            target=each["target"],
            principal=each["principal"],
            request=base64.b64decode(each["request"]),
        )
        for each in kept
    ]


def shown(answers: Mapping[tuple[str, str], int]) -> str:
    """A line an RPC: how often it was answered how."""
    lines = []
    for path in sorted({path for path, _ in answers}):
        codes = sorted(((count, code) for (of, code), count in answers.items() if of == path), reverse=True)
        lines.append(f"{path.rpartition('.')[2]:40} {'  '.join(f'{code} {count:,}' for count, code in codes)}")
    return "\n".join(lines)
