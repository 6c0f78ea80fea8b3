"""The bids that `cellbook demo` plays, generated: `python -m server.cli.sample` prints the file.

Each lot has a few keen bidders who outbid each other, sometimes too late or too low, as people do.
"""

import csv
import random
import sys
from pathlib import Path
from typing import TextIO

from server.cli.bidfile import COLUMNS

PATH = Path(__file__).parent / "data" / "sample_bids.csv"
SEED = 1851
BIDDERS = 18
STEP = 50
TOO_LOW = 0.25
DAY_S = 86_400

# The lots, and their opening prices in cents.
ITEMS = (
    ("brass sextant", 12_000), ("marine chronometer", 45_000), ("barograph", 8_000),
    ("folding camera", 3_500), ("fountain pen", 1_500), ("typewriter, portable", 6_000),
    ("theodolite", 18_000), ("pocket watch", 9_500), ("wall map of 1890", 2_500), ("ship's bell", 7_000),
    ("slide rule", 900), ("music box", 5_500), ("telescope, three draws", 11_000),
    ("opera glasses", 2_000), ("letter scales", 1_200), ("radio, valve", 4_000),
    ("microscope in its case", 16_000), ("accordion", 13_000), ("chess set, boxwood", 3_000),
    ("mantel clock", 7_500), ("globe, twelve inches", 10_000), ("drawing instruments", 2_200),
    ("lantern, railway", 1_800), ("violin bow", 25_000),
)  # fmt: skip


def rows(seed: int = SEED) -> list[list[str]]:
    """Uses only random(): its sequence is the same in every Python version."""
    chance = random.Random(seed).random  # noqa: S311 - a sample, not a secret
    made = []
    for number, (item, opening) in enumerate(ITEMS, start=1):
        days = (3, 5, 7)[int(chance() * 3)]
        keen = [1 + int(chance() * BIDDERS) for _ in range(3 + int(chance() * 4))]
        highest, seconds = 0, 0.0
        for _ in range(5 + int(chance() * 9)):
            seconds += chance() * days * DAY_S / 14
            too_low = chance() < TOO_LOW and highest > 0
            step = STEP * max(1, round((highest or opening) * chance() * 0.15 / STEP))
            amount = max(STEP, highest - step + STEP) if too_low else (highest or opening) + step
            highest = max(highest, amount)
            bidder = keen[int(chance() * len(keen))]
            made.append(
                [
                    str(1000 + number),
                    item,
                    str(days),
                    str(opening),
                    f"{seconds:.1f}",
                    str(bidder),
                    str(amount),
                ]
            )
    return made


def write(file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows())


if __name__ == "__main__":
    write(sys.stdout)
