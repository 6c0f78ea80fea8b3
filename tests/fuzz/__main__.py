"""`python -m tests.fuzz --calls 1000000`: the nightly run. What it finds is written down, to be asked again for ever.

A finding goes to build/fuzz/seed-N.json; put it into tests/fuzz/corpus, and every run asks it first.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz.player import AT_ONCE, shown
from tests.fuzz.run import Outcome, check, cluster_in, play


async def run(calls: int, seed: int, *, secure: bool, at_once: int) -> bool:
    """Whether all went well."""
    folder = Path(tempfile.mkdtemp(prefix="cellbook-fuzz-"))
    async with cluster_in(folder, secure=secure) as cluster:
        outcome = await play(cluster, calls, seed, say, at_once=at_once)
    tell(outcome, seed)
    try:
        await check(folder)
    except AssertionError:
        print(f"WRONG the books; the databases are kept: {folder}")
        raise
    shutil.rmtree(folder)
    print("every invariant holds")
    return not outcome.findings.wrong and not outcome.grown


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def tell(outcome: Outcome, seed: int) -> None:
    findings = outcome.findings
    print(shown(findings.answers))
    for name, (half, end) in outcome.resident.items():
        print(f"{name}: {half / 2**20:.0f} MiB at half time, {end / 2**20:.0f} MiB at the end")
    print(f"{findings.answers.total():,} calls in {outcome.seconds:.0f} s")
    if findings.wrong:
        path = Path("build/fuzz") / f"seed-{seed}.json"
        findings.write(path)
        for asked, said in findings.wrong[:20]:
            print(f"WRONG {asked.path} by {asked.principal!r} at {asked.target}: {said}")
        print(f"{len(findings.wrong)} wrong answers: {path}")
    for name, (half, end) in outcome.grown.items():
        print(f"WRONG {name} has grown from {half:,} to {end:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--secure", action="store_true", help="with TLS and proofs of identity")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="calls under way at the same moment")
    given = parser.parse_args()
    print(f"seed {given.seed}", file=sys.stderr)
    sys.exit(0 if asyncio.run(run(given.calls, given.seed, secure=given.secure, at_once=given.at_once)) else 1)


if __name__ == "__main__":
    main()
