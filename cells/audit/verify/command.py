"""The verifier's command line. Exit codes: 0 valid, 1 a check failed, 2 the command line or a file is wrong."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from .callers import CallerCheck, callers_in
from .evidence import KEYS, Evidence
from .export import Findings, check_export
from .note import Checkpoint, Malformed, Policy, Quorum, any_of, checkpoint_in, policy_in, verifier_key
from .proof import TILES, Proven, check_proof, check_tiles

GOOD, BAD, USAGE = 0, 1, 2
LINE_BYTES_MAX = 16 * 1024 * 1024
PROBLEMS_SHOWN_MAX = 50
_PROOF_LINES = 3

T = TypeVar("T")


class Unusable(Exception):
    """A file cannot be read or a key is malformed. The message says which."""


def main(arguments: Sequence[str], *, program: str) -> int:
    options = _parser(program).parse_args(arguments)
    path = Path(options.file)
    try:
        is_tiles = (path / TILES).is_dir()
        is_folder = path.is_dir() and not is_tiles
        # A folder of evidence contains keys, which are only as trustworthy as its author.
        policy = _policy(options.key or [str(path / KEYS)] * is_folder, options.require_witnesses)
        held = [
            _parsed("--checkpoint", each, lambda text: checkpoint_in(text, policy.keys)) for each in options.checkpoint
        ]
        callers = None
        if options.callers:
            callers = CallerCheck(callers=_parsed("--callers", options.callers, callers_in))
        if is_folder:
            evidence = Evidence(folder=path, policy=policy, held=held, callers=callers, seed=options.seed)
            result = _evidence(evidence, own_keys=not options.key)
        elif is_tiles:
            result = _proof(check_tiles(path, policy.keys, held), policy.quorum)
        else:
            with sys.stdin.buffer if options.file == "-" else path.open("rb") as file:
                result = _file(file, policy, held, callers)
    except (Unusable, OSError) as error:
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        sys.stderr.write(f"{program}: {said}\n")
        return USAGE
    except Malformed as error:
        result = _failure(str(error))
    except UnicodeDecodeError:
        result = _failure("this is no text, so it is no export, proof or checkpoint")
    return result.tell(as_json=options.as_json)


class Result(NamedTuple):
    """The outcome of a check, for programs and for people."""

    holds: bool
    content: Mapping[str, object]
    lines: Sequence[str]

    def tell(self, *, as_json: bool) -> int:
        if as_json:
            text = json.dumps({"holds": self.holds, **self.content}, ensure_ascii=False)
        else:
            text = "\n".join([f"{'HOLDS' if self.holds else 'DOES NOT HOLD'}: {self.lines[0]}", *self.lines[1:]])
        sys.stdout.write(f"{text}\n")
        return GOOD if self.holds else BAD


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Check an export, proof or checkpoint of a log, or a folder of evidence or of tiles, offline.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "file", metavar="FILE", help="an export, a proof, a checkpoint, a folder of evidence or tiles; - for stdin"
    )
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        help="a public key of the log or of a witness, a file of them, or a policy that says which witnesses count",
    )
    parser.add_argument(
        "--require-witnesses",
        type=int,
        metavar="N",
        help="at least N of the witnesses whose keys are given must have signed; default: what a policy says, or none",
    )
    parser.add_argument(
        "--checkpoint", action="append", default=[], metavar="FILE", help="a checkpoint that you have kept yourself"
    )
    parser.add_argument("--seed", help="of a folder of evidence: the seed that its samples were asked for with")
    parser.add_argument(
        "--callers", metavar="FILE", help="in exports: who may bring money in or out; events without one are named"
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    return parser


def _policy(texts: Sequence[str], required: int | None) -> Policy:
    """The policy of all keys and files together. A number on the command line overrides the quorum of a file."""
    if not texts:
        raise Unusable("--key: name a public key, or a file of them")
    try:
        policies = [_policy_of(text) for text in texts]
        keys = tuple(key for each in policies for key in each.keys)
        quorums = tuple(each.quorum for each in policies if each.quorum is not None)
        if required is not None:
            return Policy(keys, any_of(required, keys))
        return Policy(keys, Quorum(len(quorums), quorums) if quorums else None)
    except (Malformed, UnicodeDecodeError) as error:
        raise Unusable(f"--key: {error}") from None


def _policy_of(text: str) -> Policy:
    """The policy of a key, or of a file."""
    if "+" in text and not Path(text).exists():
        return Policy((verifier_key(text),))
    return policy_in(Path(text).read_text("utf-8"))


def _parsed(option: str, path: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(Path(path).read_text("utf-8"))
    except (Malformed, UnicodeDecodeError) as error:
        raise Unusable(f"{option} {path}: {error}") from None


def _failure(problem: str) -> Result:
    return Result(holds=False, content={"problem": problem}, lines=[problem])


def _file(file: BinaryIO, policy: Policy, held: Sequence[Checkpoint], callers: CallerCheck | None) -> Result:
    """Recognizes the kind of file by its first line. Raises Malformed, UnicodeDecodeError."""
    lines, keys = iter(lambda: file.readline(LINE_BYTES_MAX), b""), policy.keys
    first = next(lines, b"")
    if first.startswith(b'{"cellbook":"export/'):
        return _findings(check_export(chain([first], lines), keys, held, policy.quorum, callers))
    rest = [*islice(lines, _PROOF_LINES)]
    if first.startswith(b"{"):
        return _proof(check_proof([first, *rest], keys), policy.quorum)
    checkpoint = checkpoint_in(b"".join([first, *rest, *lines]).decode(), keys)
    fact = f"{checkpoint.origin} has signed its first {checkpoint.size} events"
    return _proof(Proven(checkpoint, None, fact), policy.quorum)


def _evidence(evidence: Evidence, *, own_keys: bool) -> Result:
    evidence.check()
    facts, problems = evidence.facts, evidence.problems
    if own_keys:
        facts.append("the keys are those of the folder itself: compare them with yours, or give --key")
    lines = [str(evidence.folder), *facts, *(f"  {problem}" for problem in problems)]
    return Result(holds=not problems, content={"told": facts, "problems": problems}, lines=lines)


def _proof(proven: Proven, quorum: Quorum | None) -> Result:
    quorum = quorum.outside(proven.checkpoint.origin) if quorum is not None else None
    cosigned = proven.checkpoint.cosigned
    if quorum is not None and not quorum.met([name for name, _ in cosigned]):
        signed = ", ".join(name for name, _ in cosigned) or "none"
        return _failure(f"{proven.fact}, but not enough witnesses have: {quorum} must, and {signed} has")
    lines = [proven.fact, *_cosigned_lines(cosigned)]
    if proven.event is not None:
        lines.append(json.dumps(proven.event, indent=2, ensure_ascii=False))
    content = {"told": proven.fact, "event": proven.event, **_cosigned(cosigned)}
    return Result(holds=True, content=content, lines=lines)


def _findings(found: Findings) -> Result:
    names = ("cell", "first", "last", "root", "checkpoints", "signed", "witnessed")
    content = {
        **{name: getattr(found, name) for name in names},
        "required": str(found.quorum) if found.quorum is not None else None,
        "callers": found.callers and {"signed": found.callers[0], "proven": found.callers[1]},
        "whole": found.whole,
        **_cosigned(found.cosigned),
        "problems": [
            {"position": each.position, "last": each.last or each.position, "problem": each.text}
            for each in found.problems
        ],
    }
    return Result(holds=not found.problems, content=content, lines=list(_findings_lines(found)))


def _findings_lines(found: Findings) -> Iterator[str]:
    part = "" if found.whole else " (a part of the log)"
    yield f"positions {found.first} to {found.last} of {found.cell}{part}, root {found.root or '-'}"
    yield f"{found.checkpoints} checkpoints; signed up to position {found.signed}"
    if not found.problems and found.signed < found.last:
        yield f"not signed yet: positions {max(found.signed + 1, found.first)} to {found.last}"
    if found.quorum is not None:
        yield f"witnessed up to position {found.witnessed}, by {found.quorum}"
    if found.callers is not None:
        signed, proven = found.callers
        yield f"money in or out: {signed} events signed by their callers, {proven} by tokens or certificates that count"
    yield from _cosigned_lines(found.cosigned)
    for problem in found.problems[:PROBLEMS_SHOWN_MAX]:
        yield f"  {problem}"
    if len(found.problems) > PROBLEMS_SHOWN_MAX:
        yield f"  and {len(found.problems) - PROBLEMS_SHOWN_MAX} more; --json lists them"


def _cosigned(cosigned: Sequence[tuple[str, int]]) -> dict[str, object]:
    return {"cosigned": [{"witness": name, "time_s": at} for name, at in cosigned]}


def _cosigned_lines(cosigned: Sequence[tuple[str, int]]) -> list[str]:
    return [f"cosigned by {name} on {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC" for name, at in cosigned]
