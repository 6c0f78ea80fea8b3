"""Runs seeds: `make simulate SEEDS=100000` overnight, `make simulate SEED=7` for one seed in detail."""

import argparse
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from os import cpu_count

from tests.simulation.world import World, played

CHUNK = 50


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="tell this one's story")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many to play")
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    if asked.seed is not None:
        return _tell(asked.seed)
    return _play(range(asked.first, asked.first + asked.seeds))


def _tell(seed: int) -> int:
    world = World(seed)
    failure = played(world)
    print("\n".join(world.told()))
    print(failure or f"seed {seed} holds, digest {world.digest()}")
    return 1 if failure else 0


def _play(seeds: range) -> int:
    begun_s, done, broken = time.monotonic(), 0, 0
    chunks = [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(cpu_count()) as pool:
        for chunk, failures in zip(chunks, pool.map(failures_of, chunks), strict=True):
            done, broken = done + len(chunk), broken + len(failures)
            for failure in failures:
                print(failure)
            rate = done / (time.monotonic() - begun_s)
            if sys.stderr.isatty():
                print(f"\r{done} of {len(seeds)} seeds, {rate:.0f}/s", end="", file=sys.stderr, flush=True)
    elapsed_s = time.monotonic() - begun_s
    print(f"{done} seeds in {elapsed_s:.0f} s, {broken} broken")
    return 1 if broken else 0


def failures_of(seeds: Iterable[int]) -> list[str]:
    """The violations of failing seeds, each with the command that reproduces it."""
    failures = (played(World(seed)) for seed in seeds)
    return [failure for failure in failures if failure]


if __name__ == "__main__":
    sys.exit(main())
