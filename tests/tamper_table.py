"""The table of docs/audit.md: what a superuser may do to a cell, and who names it. `make pages` writes it.

tests/integration/audit/test_tamperings.py does each of them to a cell that runs, and compares what is found.
"""

from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "audit.md"
BEGIN, END = "<!-- tamperings: begin -->\n", "<!-- tamperings: end -->"

# What is done: what alarm, reconcile, verify and witness say. Empty: nothing.
NOTICED: dict[str, tuple[str, str, str, str]] = {
    "a deposit tenfold, its postings with it": ("log watch", "event", "the event", ""),
    "the same, its hash made right": ("log watch", "event", "the event", ""),
    "the same, its hash and the tree made right": (
        "log watch, signing",
        "account entry, event, projection",
        "the stretch",
        "LOG_FORKED",
    ),
    "the postings of a deposit alone": ("log watch", "event", "the event", ""),
    "a payload's field": ("log watch", "event", "the event", ""),
    "metadata: who asked for it": ("log watch", "command outcome, event", "the event", ""),
    "a stamp": ("log watch", "event", "the event", ""),
    "when it was recorded": ("log watch", "event", "the event", ""),
    "a vector clock": ("log watch", "event", "the event", ""),
    "what caused it": ("log watch", "event", "the event", ""),
    "its type": ("log watch", "event", "the event", ""),
    "its stream": ("log watch", "event", "the event", ""),
    "JSON that no cell writes": ("log watch", "event", "the event", ""),
    "the stored hash alone": ("log watch, signing", "event", "the event", "LOG_FORKED"),
    "an event that no checkpoint covers yet, its hash made right": (
        "signing",
        "projection",
        "the stretch",
        "LOG_FORKED",
    ),
    "an event deleted": ("log watch, signing", "command outcome, event", "the event, the gap", "no proof"),
    "an event deleted, the gap closed, hashes and tree made right": (
        "head seal, log watch",
        "command outcome, event",
        "the missing end, the stretch",
        "no proof",
    ),
    "an event inserted, hashes and tree made right": (
        "head seal, log watch",
        "command outcome, event, projection",
        "the event, the stretch",
        "LOG_FORKED",
    ),
    "two events swapped with their times, hashes and tree made right": (
        "log watch, signing",
        "command outcome, event",
        "the stretch",
        "LOG_FORKED",
    ),
    "an event appended, the head moved": ("head seal", "projection", "", ""),
    "events cut off that no checkpoint covers": ("head seal", "projection", "the missing end", "no proof"),
    "events cut off with their checkpoints": (
        "head seal, log watch",
        "event",
        "the checkpoint, the missing end",
        "no proof",
    ),
    "a tile of the tree": ("log watch", "event", "the event", ""),
    "a tile's root": ("log watch, signing", "", "the event", "LOG_FORKED"),
    "a tile deleted": ("log watch", "", "", ""),
    "a tile of a level that the tree does not have yet": ("log watch, signing", "", "the event", "LOG_FORKED"),
    "the last checkpoint's text": ("log watch", "", "the checkpoint", ""),
    "the last checkpoint's root": ("log watch", "", "", ""),
    "the last checkpoint deleted": ("log watch", "", "the checkpoint", ""),
    "an earlier checkpoint deleted": ("log watch", "books", "the checkpoint", ""),
    "a checkpoint by another key": ("log watch", "books", "the checkpoint", ""),
    "a cosignature": ("", "", "the checkpoint", ""),
    "all cosignatures deleted": ("", "", "", ""),
    "a user's balance": ("", "books, projection", "", ""),
    "an account deleted": ("", "books, projection", "", ""),
    "an account invented": ("", "books, projection", "", ""),
    "a hold removed": ("", "books, projection", "", ""),
    "an auction's price": ("", "projection", "", ""),
    "who owns an asset": ("", "projection", "", ""),
    "whether a hold expires": ("", "projection", "", ""),
    "when an auction ends, for its timer": ("", "projection", "", ""),
    "the list that an auction is in": ("", "projection", "", ""),
    "the cells that a saga is found by": ("", "projection", "", ""),
    "a saga's progress": ("", "projection", "", ""),
    "the house's fees": ("", "books, house balance", "", ""),
    "an account entry": ("", "account entry, books", "", ""),
    "an account entry deleted": ("", "account entry, books", "", ""),
    "a clearing entry": ("", "books, clearing, clearing entry", "", ""),
    "a clearing entry deleted": ("", "books, clearing, clearing entry", "", ""),
    "a leg's effect (barrier)": ("", "barrier", "", ""),
    "a bank reference freed": ("", "external reference", "", ""),
    "balance, entry and fees together, as if money had come in": (
        "",
        "account entry, books, house balance, projection",
        "",
        "",
    ),
    "an accepted command's outcome turned into a refusal": ("", "command outcome", "", ""),
    "an outcome deleted": ("", "command outcome", "", ""),
    "an outcome invented": ("", "command outcome", "", ""),
    "a stored refusal's reason": ("", "command outcome", "", ""),
    "a stored refusal deleted": ("", "", "", ""),
    "a snapshot of an account": ("", "snapshot", "", ""),
    "a snapshot of all sums": ("", "snapshot", "", ""),
    "the replay that passes go on from, and the row with it": ("", "books, projection, replay", "", ""),
    "how far passes have come": ("", "", "", ""),
    "the seal of the head removed": ("", "", "", ""),
    "the head said to be signed further than it is": ("", "", "", ""),
    "the head's epoch raised": ("", "", "", ""),
    "the head's promise about the clock": ("", "books", "", ""),
    "the cell's name": ("start", "books, saga", "", ""),
    "a copied event of another cell invented": ("", "", "", ""),
    "mail invented": ("", "", "", ""),
    "an address put in": ("", "", "", ""),
    "a guard switched off": ("", "schema", "", ""),
    "a guard that lets through": ("", "schema", "", ""),
    "a right given to the cell's login": ("", "schema", "", ""),
    "a constraint dropped": ("", "schema", "", ""),
    "while the cell is down: an event changed": ("log watch", "event", "the event", ""),
    "while the cell is down: the seal of the head removed": ("head seal", "", "", ""),
    "while the cell is down: an event appended, the head moved": ("head seal", "projection", "", ""),
    "while the cell is down: an older copy of the database put back": ("signing", "", "the missing end", ""),
    "the same, and an older copy of the cell's disk": ("", "", "the missing end", "LOG_SHRUNK"),
    "while the cell is down: another cell's database in its place": ("start", "", "the event, the missing end", ""),
    "with the cell's key: an event changed, all made anew and signed": (
        "log watch, signing",
        "account entry, event, projection",
        "the stretch",
        "LOG_FORKED",
    ),
    "the same while the cell is down, its disk changed, too": (
        "",
        "account entry, books, house balance, projection",
        "the stretch",
        "LOG_FORKED",
    ),
    "with the cell's key: an event appended and signed": (
        "head seal",
        "projection",
        "the event",
        "CHECKPOINTS_RENUMBERED",
    ),
    "an event appended and signed while the cell is down, its disk changed, too": ("", "projection", "", ""),
}
# Why none of them says anything.
WHY: dict[str, str] = {
    "all cosignatures deleted": "the witnesses sign the next checkpoint, which covers the same events",
    "a stored refusal deleted": "no event tells of it, and what is gone has no seal",
    "how far passes have come": "a full pass begins at the first event; it runs once a week",
    "the seal of the head removed": "the cell that runs seals anew with its next commit",
    "the head said to be signed further than it is": "the cell that runs writes it anew with its next commit",
    "the head's epoch raised": "the cell stands by, and leads again",
    "a copied event of another cell invented": "it hangs on no move, and no answer reads it",
    "mail invented": "mail is in no log: the recipient's mail server has it",
    "an address put in": "addresses are in no log; the vault's key does not open it",
}


def table() -> str:
    """A row a tampering."""
    lines = ["| what is done | alarm | `reconcile` | `verify` | witness |", "|---|---|---|---|---|"]
    for what, row in NOTICED.items():
        alarm, reconcile, verify, witness = (each or "-" for each in row)
        if not any(row):
            alarm = f"nothing: {WHY[what]}"
        lines.append(f"| {what} | {alarm} | {reconcile} | {verify} | {witness if witness == '-' else f'`{witness}`'} |")
    return "\n".join(lines) + "\n"


def page_with(rows: str) -> str:
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{rows}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with(table()), "utf-8")
