"""The verifier's command line. Exit codes: 0 valid, 1 a check failed, 2 the command line or a file is wrong."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from .callers import CallerCheck, callers_in
from .evidence import KEYS, Evidence
from .export import Findings, check_export
from .note import Checkpoint, Malformed, Policy, Quorum, VerifierKey, any_of, checkpoint_in, policy_in, verifier_key
from .proof import TILES, Proven, check_proof, check_tiles

GOOD, BAD, USAGE = 0, 1, 2
LINE_BYTES_MAX = 16 * 1024 * 1024
PROBLEMS_SHOWN_MAX = 50
_PROOF_LINES = 3


class Unusable(Exception):
    """A file cannot be read or a key is malformed. The message says which."""


def main(arguments: Sequence[str], *, program: str) -> int:
    options = _parser(program).parse_args(arguments)
    try:
        is_tiles = (Path(options.file) / TILES).is_dir()
        is_folder = Path(options.file).is_dir() and not is_tiles
        # A folder of evidence contains keys, which are only as trustworthy as its author.
        keys = options.key or [str(Path(options.file) / KEYS)] * is_folder
        policy = _policy(keys, options.require_witnesses)
        held = [_held(path, policy.keys) for path in options.checkpoint]
        callers = _callers(options.callers) if options.callers else None
        if is_folder:
            evidence = Evidence(folder=Path(options.file), policy=policy, held=held, callers=callers, seed=options.seed)
            return _told_evidence(evidence, own_keys=not options.key, as_json=options.as_json)
        if is_tiles:
            return _told_tiles(Path(options.file), policy, held, as_json=options.as_json)
        with _opened(options.file) as file:
            return _verify(file, policy, held, callers, as_json=options.as_json)
    except (Unusable, OSError) as error:
        sys.stderr.write(f"{program}: {error}\n")
        return USAGE


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


def _held(path: str, keys: Sequence[VerifierKey]) -> Checkpoint:
    try:
        return checkpoint_in(Path(path).read_text("utf-8"), keys)
    except (Malformed, UnicodeDecodeError) as error:
        raise Unusable(f"--checkpoint {path}: {error}") from None


def _callers(path: str) -> CallerCheck:
    try:
        return CallerCheck(callers=callers_in(Path(path).read_text("utf-8")))
    except (Malformed, UnicodeDecodeError) as error:
        raise Unusable(f"--callers {path}: {error}") from None


def _opened(name: str) -> BinaryIO:
    return sys.stdin.buffer if name == "-" else Path(name).open("rb")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LINE_BYTES_MAX):
        yield line


def _verify(
    file: BinaryIO, policy: Policy, held: Sequence[Checkpoint], callers: CallerCheck | None, *, as_json: bool
) -> int:
    lines, keys = _lines(file), policy.keys
    first = next(lines, b"")
    try:
        if first.startswith(b'{"cellbook":"export/'):
            found = check_export(_with(first, lines), keys, held, policy.quorum, callers)
            return _told_findings(found, as_json=as_json)
        rest = [*islice(lines, _PROOF_LINES)]
        if first.startswith(b"{"):
            return _told_proof(check_proof([first, *rest], keys), policy.quorum, as_json=as_json)
        text = b"".join([first, *rest, *lines]).decode()
        checkpoint = checkpoint_in(text, keys)
        return _told_proof(
            Proven(checkpoint, None, f"{checkpoint.origin} has signed its first {checkpoint.size} events"),
            policy.quorum,
            as_json=as_json,
        )
    except (Malformed, UnicodeDecodeError) as error:
        return _told_failure(str(error), as_json=as_json)


def _told_tiles(folder: Path, policy: Policy, held: Sequence[Checkpoint], *, as_json: bool) -> int:
    try:
        return _told_proof(check_tiles(folder, policy.keys, held), policy.quorum, as_json=as_json)
    except (Malformed, UnicodeDecodeError) as error:
        return _told_failure(str(error), as_json=as_json)


def _with(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _told_evidence(evidence: Evidence, *, own_keys: bool, as_json: bool) -> int:
    evidence.check()
    if own_keys:
        evidence.told.append("the keys are those of the folder itself: compare them with yours, or give --key")
    if as_json:
        holds = not evidence.problems
        _say(json.dumps({"holds": holds, "told": evidence.told, "problems": evidence.problems}, ensure_ascii=False))
        return GOOD if holds else BAD
    _say(f"{'DOES NOT HOLD' if evidence.problems else 'HOLDS'}: {evidence.folder}")
    for line in evidence.told:
        _say(line)
    for problem in evidence.problems:
        _say(f"  {problem}")
    return BAD if evidence.problems else GOOD


def _told_failure(problem: str, *, as_json: bool) -> int:
    _say(json.dumps({"holds": False, "problem": problem}) if as_json else f"DOES NOT HOLD: {problem}")
    return BAD


def _told_proof(proven: Proven, quorum: Quorum | None, *, as_json: bool) -> int:
    quorum = quorum.outside(proven.checkpoint.origin) if quorum is not None else None
    if quorum is not None and not quorum.met([name for name, _ in proven.checkpoint.cosigned]):
        signed = ", ".join(name for name, _ in proven.checkpoint.cosigned) or "none"
        problem = f"{proven.told}, but not enough witnesses have: {quorum} must, and {signed} has"
        return _told_failure(problem, as_json=as_json)
    if as_json:
        content = {"holds": True, "told": proven.told, "event": proven.event, **_cosigned(proven.checkpoint.cosigned)}
        _say(json.dumps(content, ensure_ascii=False))
        return GOOD
    _say(f"HOLDS: {proven.told}")
    for line in _cosigned_lines(proven.checkpoint.cosigned):
        _say(line)
    if proven.event is not None:
        _say(json.dumps(proven.event, indent=2, ensure_ascii=False))
    return GOOD


def _told_findings(found: Findings, *, as_json: bool) -> int:
    if as_json:
        _say(json.dumps(_findings(found), ensure_ascii=False))
        return BAD if found.problems else GOOD
    part = "" if found.whole else " (a part of the log)"
    span = f"positions {found.first} to {found.last} of {found.cell}{part}"
    _say(f"{'DOES NOT HOLD' if found.problems else 'HOLDS'}: {span}, root {found.root or '-'}")
    _say(f"{found.checkpoints} checkpoints; signed up to position {found.signed}")
    if not found.problems and found.signed < found.last:
        _say(f"not signed yet: positions {max(found.signed + 1, found.first)} to {found.last}")
    if found.quorum is not None:
        _say(f"witnessed up to position {found.witnessed}, by {found.quorum}")
    if found.callers is not None:
        signed, proven = found.callers
        _say(f"money in or out: {signed} events signed by their callers, {proven} by tokens or certificates that count")
    for line in _cosigned_lines(found.cosigned):
        _say(line)
    for problem in found.problems[:PROBLEMS_SHOWN_MAX]:
        _say(f"  {problem}")
    if len(found.problems) > PROBLEMS_SHOWN_MAX:
        _say(f"  and {len(found.problems) - PROBLEMS_SHOWN_MAX} more; --json lists them")
    return BAD if found.problems else GOOD


def _findings(found: Findings) -> dict[str, object]:
    return {
        "holds": not found.problems,
        "cell": found.cell,
        "first": found.first,
        "last": found.last,
        "root": found.root,
        "checkpoints": found.checkpoints,
        "signed": found.signed,
        "witnessed": found.witnessed,
        "required": str(found.quorum) if found.quorum is not None else None,
        "callers": found.callers and {"signed": found.callers[0], "proven": found.callers[1]},
        "whole": found.whole,
        **_cosigned(found.cosigned),
        "problems": [
            {"position": each.position, "last": each.last or each.position, "problem": each.text}
            for each in found.problems
        ],
    }


def _cosigned(cosigned: Sequence[tuple[str, int]]) -> dict[str, object]:
    return {"cosigned": [{"witness": name, "time_s": at} for name, at in cosigned]}


def _cosigned_lines(cosigned: Sequence[tuple[str, int]]) -> list[str]:
    return [f"cosigned by {name} on {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC" for name, at in cosigned]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
