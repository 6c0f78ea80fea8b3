"""Files of recorded bids: one row per bid, the bids of an auction in the order in which they were placed."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cells.domain.values import AMOUNT_MAX_MINOR

COLUMNS = ("auction", "item", "duration_days", "open_minor", "time_s", "bidder", "bid_minor")
# The required columns; the rest of COLUMNS may be absent.
NEEDED = ("auction", "item", "open_minor", "bidder", "bid_minor")


class BidFileError(Exception):
    """The file cannot be played. The message names the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBid:
    bidder: int
    amount_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lot:
    """One auction of a file. Its first row has the opening price."""

    key: str
    item: str
    opening_minor: int
    bids: tuple[FileBid, ...]
    currency: str = "USD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The result of a lot in an ascending auction: bids strictly above the highest are accepted, all others refused."""

    accepted: int
    refused: int
    winner: int | None
    price_minor: int


def read_lots(path: Path) -> list[Lot]:
    """The auctions of the file in the order of their first bids.

    Raises:
        BidFileError: no such file, not text, a column missing, a field no number or out of range, or no bids.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lots = _lots(path, file)
    except OSError as error:
        raise BidFileError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BidFileError(f"{path}: not text in UTF-8: {error.reason} at byte {error.start}") from error
    if not lots:
        raise BidFileError(f"{path}: holds no bids")
    for (bidder, _), amount_minor in funds_needed(lots).items():
        if amount_minor > AMOUNT_MAX_MINOR:
            raise BidFileError(f"{path}: the bids of bidder {bidder} come to more than fits in 64 bits")
    return lots


def expected(lot: Lot) -> Expected:
    """Computed independently of the ledger, so that the ledger's answers can be compared with it."""
    accepted, price, winner = 0, 0, None
    for bid in lot.bids:
        if bid.amount_minor >= lot.opening_minor and bid.amount_minor > price:
            accepted, price, winner = accepted + 1, bid.amount_minor, bid.bidder
    return Expected(accepted=accepted, refused=len(lot.bids) - accepted, winner=winner, price_minor=price)


def funds_needed(lots: list[Lot]) -> dict[tuple[int, str], int]:
    """(bidder, currency) -> minor units, enough for all of the bidder's bids at once."""
    needed = Counter[tuple[int, str]]()
    for lot in lots:
        for bid in lot.bids:
            needed[bid.bidder, lot.currency] += bid.amount_minor
    return needed


def _lots(path: Path, file: Iterator[str]) -> list[Lot]:
    reader = csv.DictReader(file, strict=True)
    heads, bids = dict[str, tuple[str, int]](), defaultdict[str, list[FileBid]](list)
    try:
        if missing := [name for name in NEEDED if name not in (reader.fieldnames or ())]:
            what = f"no column {', '.join(missing)}" if reader.fieldnames else "an empty file"
            raise BidFileError(f"{path}, line 1: {what}; expected the columns {','.join(COLUMNS)}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise BidFileError(f"{where}: more fields than columns")
            if empty := [name for name in NEEDED if not (row[name] or "").strip()]:
                raise BidFileError(f"{where}: {empty[0]} is empty")
            auction = row["auction"].strip()
            heads.setdefault(auction, (row["item"], _amount(where, row, "open_minor")))
            bid = FileBid(bidder=_number(where, row, "bidder"), amount_minor=_amount(where, row, "bid_minor"))
            bids[auction].append(bid)
    except csv.Error as error:
        raise BidFileError(f"{path}, line {reader.reader.line_num}: {error}") from error
    return [
        Lot(key=key, item=item, opening_minor=opening, bids=tuple(bids[key])) for key, (item, opening) in heads.items()
    ]


def _number(where: str, row: dict[str, str], name: str) -> int:
    text = row[name].strip()
    # int() also accepts "1_000" and other scripts' digits, which are not allowed in a bid file.
    if not (text.isascii() and text.removeprefix("-").isdigit()):
        raise BidFileError(f"{where}: {name} is not a whole number: {text!r}")
    if len(text) > len(str(AMOUNT_MAX_MINOR)) + 1 or int(text) > AMOUNT_MAX_MINOR:
        raise BidFileError(f"{where}: {name} does not fit in 64 bits: {text[:30]}")
    return int(text)


def _amount(where: str, row: dict[str, str], name: str) -> int:
    amount_minor = _number(where, row, name)
    if amount_minor <= 0:
        raise BidFileError(f"{where}: {name} must be positive, got {amount_minor}")
    return amount_minor
