"""Checking a folder of evidence (`cellbook audit evidence`), offline: every file, and what follows from the exports.

The manifest names each file with its hash, and a signed summary the hash of the manifest. Everything that
follows from the exports is recomputed: the events and accounts in the samples, statements, and the consolidated trial
balance. The result of a reconciliation is only the cells' claim.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from .books import CellBooks, InTransit, consolidated
from .callers import CallerCheck
from .evidence_cell import LINE_BYTES_MAX, Reading, read_export, sample_problems, statement_problems
from .lines import canonical, document
from .note import UNREADABLE, Checkpoint, Malformed, Policy, checkpoint_in, origin_of, signers_of

EVIDENCE = "evidence/1"
MANIFEST, SUMMARY, KEYS = "manifest.json", "summary", "keys"
TRIAL, RECONCILIATION = "trial-balance.json", "reconcile.json"
PIECE_BYTES = 1024 * 1024
_CELL = re.compile(r"[a-z0-9-]{1,32}")
_CELL_WITNESS = re.compile(r"(cellbook/[a-z0-9-]{1,32})/witness")


@dataclass(slots=True, kw_only=True)
class Evidence:
    folder: Path
    policy: Policy
    held: Sequence[Checkpoint] = ()
    callers: CallerCheck | None = None
    # The seed that the samples were requested with, if the user of the verifier knows it.
    seed: str | None = None
    facts: list[str] = field(default_factory=list)
    # "FILE: its problem".
    problems: list[str] = field(default_factory=list)
    _manifest: Mapping[str, Any] = field(default_factory=dict)
    # The files that are as the manifest says.
    _sound: set[str] = field(default_factory=set)
    _books: list[CellBooks] = field(default_factory=list)
    # The logs whose cells have cosigned a checkpoint.
    _witnesses: set[str] = field(default_factory=set)

    def check(self) -> None:
        try:
            text = (self.folder / MANIFEST).read_bytes()
            manifest = _manifest_in(text)
            if self.seed is not None and manifest["seed"] != self.seed:
                self.problems.append(f"{MANIFEST}: the samples are by the seed {manifest['seed']!r}, not {self.seed!r}")
            self._manifest = manifest
            self._files()
            self._summary(text)
            for cell in sorted(manifest["cells"]):
                self._cell(cell)
            self._left_out()
        except (OSError, Malformed, *UNREADABLE) as error:
            self.problems.append(f"{MANIFEST}: {error!s}")
            return
        for name, problems in ((TRIAL, self._trial), (RECONCILIATION, self._reconciliation)):
            if name in self._sound:
                self._judge(name, problems())

    def _left_out(self) -> None:
        """Names the logs that should be in the evidence, each by all that tells of it."""
        known = {
            "a checkpoint of {} is held": {each.origin for each in self.held},
            "{} has signed another log as a witness": self._witnesses,
            # Older evidence has no list.
            "the router lists {}": {origin_of(cell) for cell in self._manifest.get("listed", ())},
        }
        given = {origin_of(cell) for cell in self._manifest["cells"]}
        for text, origins in known.items():
            for origin in sorted(origins - given):
                self.problems.append(f"{MANIFEST}: {text.format(origin)}, and that log is not in the evidence")

    def _judge(self, name: str, problems: Iterator[str]) -> None:
        try:
            for problem in problems:
                self.problems.append(f"{name}: {problem}")
        except (OSError, Malformed, *UNREADABLE) as error:
            self.problems.append(f"{name}: it cannot be read: {error!r}")

    def _files(self) -> None:
        """Finds the files that match the manifest; any other file is a problem."""
        files, cells = self._manifest["files"], self._manifest["cells"]
        there = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if not path.is_dir()}
        for name in sorted(there - set(files) - {MANIFEST, SUMMARY}):
            self.problems.append(f"{name}: added: the manifest does not name it")
        for name in sorted(required(cells) - set(files)):
            self.problems.append(f"{name}: missing: the manifest does not name it")
        for name in sorted(files):
            path = self.folder / name
            if not _is_checked(name, self._manifest):
                self.problems.append(f"{name}: nothing here checks it: it belongs to no evidence")
            elif name not in there:
                self.problems.append(f"{name}: missing")
            elif path.is_symlink() or hashed(path) != files[name]["sha256"]:
                self.problems.append(f"{name}: changed: it is not what the manifest says")
            else:
                self._sound.add(name)
        self.facts.append(f"{len(self._sound)} of {len(files)} files are as the manifest says")

    def _summary(self, text: bytes) -> None:
        try:
            body, signers = signers_of((self.folder / SUMMARY).read_bytes().decode(), self.policy.keys)
        except (OSError, Malformed, UnicodeDecodeError) as error:
            self.problems.append(f"{SUMMARY}: {error}")
            return
        names = [key.name for key in signers]
        if not names:
            self.problems.append(f"{SUMMARY}: none of the keys given has signed it")
        elif body != summary_of(text, self._manifest):
            self.problems.append(f"{MANIFEST}: changed: it is not the one that the summary was signed over")
        else:
            self.facts.append(f"signed by {', '.join(names)}")

    # --- cell by cell -----------------------------------------------------------------------------------------------

    def _cell(self, cell: str) -> None:
        manifest, names, sound = self._manifest, paths_of(cell), self._sound
        if not {names.checkpoint, names.export} <= sound:
            return
        try:
            checkpoint = checkpoint_in((self.folder / names.checkpoint).read_bytes().decode(), self.policy.keys)
        except (Malformed, UnicodeDecodeError) as error:
            self.problems.append(f"{names.checkpoint}: {error}")
            return
        self._witnesses |= {found[1] for name, _ in checkpoint.cosigned if (found := _CELL_WITNESS.fullmatch(name))}
        if checkpoint.origin != origin_of(cell):
            self.problems.append(f"{names.checkpoint}: it is of {checkpoint.origin}")
            return
        listed = {Path(name).stem for name in sound if name.startswith(names.statements)}
        moment = int(manifest["cut"]["physical_ms"]), int(manifest["cut"]["logical"])
        reading = Reading(
            checkpoint=checkpoint, cut=int(manifest["cells"][cell]["position"]), moment=moment, users=frozenset(listed)
        )
        self._export(names.export, reading)
        self._samples(names.samples, checkpoint)
        self._statements(cell, reading)
        if reading.books.position == reading.cut:
            self._books.append(reading.books)

    def _export(self, name: str, reading: Reading) -> None:
        held = [reading.checkpoint, *(each for each in self.held if each.origin == reading.checkpoint.origin)]
        try:
            with (self.folder / name).open("rb") as file:
                lines = iter(lambda: file.readline(LINE_BYTES_MAX), b"")
                found = read_export(lines, reading, self.policy.keys, held, self.policy.quorum, callers=self.callers)
        except Malformed as error:
            self.problems.append(f"{name}: {error}")
            return
        if not found.whole:
            self.problems.append(f"{name}: it is not the whole log")
        if found.signed < reading.checkpoint.size and not found.problems:
            self.problems.append(f"{name}: it does not reach the checkpoint of size {reading.checkpoint.size}")
        if not reading.cut_right:
            self.problems.append(f"{name}: position {reading.cut} is not where the moment of the cut is in it")
        first = next((size for size in reading.sizes if size >= reading.cut), 0)
        if first != reading.checkpoint.size and not found.problems:
            self.problems.append(
                f"{paths_of(found.cell).checkpoint}: it is of size {reading.checkpoint.size}, and the first that "
                f"covers the cut is of size {first}"
            )
        self.problems += [f"{name}: {problem}" for problem in found.problems]
        witnessed = f", witnessed up to {found.witnessed}" if found.quorum is not None else ""
        self.facts.append(
            f"{found.cell}: positions {found.first} to {found.last}, signed up to {found.signed}{witnessed}, "
            f"evidence up to {reading.checkpoint.size}"
        )

    def _samples(self, name: str, checkpoint: Checkpoint) -> None:
        count, seed = int(self._manifest["samples"]), str(self._manifest["seed"])
        if not count:
            self.facts.append(f"{checkpoint.origin}: no events picked: the manifest asks for none")
        elif name in self._sound:
            lines = (self.folder / name).read_bytes().splitlines(keepends=True)
            self._judge(name, sample_problems(lines, self.policy.keys, checkpoint, seed, count))
            self.facts.append(f"{checkpoint.origin}: {len(lines) // 2} events picked by seed {seed!r}, each proved")
        else:
            self.problems.append(f"{name}: the sample is not there")

    def _statements(self, cell: str, reading: Reading) -> None:
        count, seed = int(self._manifest["accounts"]), str(self._manifest["seed"])
        wanted = {*reading.sampled_accounts(seed, count), *({*self._manifest["named"]} & reading.known)}
        for user_id in sorted(wanted | reading.users):
            name = paths_of(cell).statement(user_id)
            if user_id not in wanted:
                self.problems.append(f"{name}: nobody has asked for it, and the seed does not pick it")
            elif name in self._sound:
                self._judge(name, statement_problems((self.folder / name).read_bytes(), user_id, reading))
            else:
                self.problems.append(f"{name}: the statement is not there")
        self.facts.append(f"{cell}: {len(wanted)} statements")

    # --- over all cells ---------------------------------------------------------------------------------------------

    def _trial(self) -> Iterator[str]:
        """Recomputes the trial balance from the exports and compares it."""
        said = document((self.folder / TRIAL).read_bytes())
        if len(self._books) < len(self._manifest["cells"]):
            yield "it cannot be worked out anew: not all exports reach the cut"
            return
        found = consolidated(self._books)
        accounts = {(each["account"], each["currency"]): int(each["amount_minor"]) for each in said["accounts"]}
        in_transit = [
            InTransit(each["clearing_id"], each["from"], each["to"], each["currency"], int(each["amount_minor"]))
            for each in said["in_transit"]
        ]
        if accounts != found.sums or len(accounts) < len(said["accounts"]):
            yield "its accounts are not what the exports come to"
        if in_transit != found.in_transit:
            yield "what it has in transit is not what the exports have"
        yield from found.problems
        yield from (str(problem) for problem in said["problems"] if problem not in found.problems)
        self.facts += [
            f"all cells, {currency}: accounts {own} + in transit {transit} = {own + transit} minor units"
            for currency, (own, transit) in found.totals().items()
        ]

    def _reconciliation(self) -> Iterator[str]:
        """Reports the cells' claims."""
        said = document((self.folder / RECONCILIATION).read_bytes())
        counts = {each["cell"]: int(each["finding_count"]) for each in said["cells"]}
        for cell in sorted(self._manifest["cells"]):
            if cell not in counts:
                yield f"{cell} did not reconcile"
            elif counts[cell]:
                yield f"{cell}: {counts[cell]} mismatches"
        if not said["well"] and not any(counts.values()):
            yield "not all is well"
        self.facts.append(f"reconciled, as the cells say: {', '.join(sorted(counts))}")


def _manifest_in(text: bytes) -> dict[str, Any]:
    manifest = document(text)
    if manifest.get("cellbook") != EVIDENCE:
        raise Malformed(f"this is no evidence that this verifier knows: expected {EVIDENCE}")
    if odd := [cell for cell in manifest["cells"] if not _CELL.fullmatch(cell)]:
        raise Malformed(f"{odd[0][:40]!r} is no cell")
    return manifest


class CellPaths(NamedTuple):
    checkpoint: str
    export: str
    samples: str
    statements: str

    def statement(self, user_id: str) -> str:
        return f"{self.statements}{user_id}.json"


def paths_of(cell: str) -> CellPaths:
    return CellPaths(
        f"cells/{cell}/checkpoint", f"cells/{cell}/export.jsonl", f"cells/{cell}/samples", f"cells/{cell}/statements/"
    )


def required(cells: Iterable[str]) -> set[str]:
    """The files that evidence must contain."""
    return {KEYS, TRIAL, RECONCILIATION} | {
        name for cell in cells for name in (paths_of(cell).checkpoint, paths_of(cell).export)
    }


def _is_checked(name: str, manifest: Mapping[str, Any]) -> bool:
    """Whether this verifier reads a file of that name."""
    for cell in manifest["cells"]:
        paths = paths_of(cell)
        if name in {paths.statement(Path(name).stem), *[paths.samples] * bool(manifest["samples"])}:
            return True
    return name in required(manifest["cells"])


def hashed(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def manifest_text(manifest: dict[str, Any]) -> bytes:
    return canonical(manifest) + b"\n"


def summary_of(manifest: bytes, content: Mapping[str, Any]) -> str:
    """The signed text: the manifest's hash and, for people to compare, the cells with sizes and roots."""
    lines = [f"cellbook {EVIDENCE}", f"manifest {base64.b64encode(sha256(manifest).digest()).decode()}"]
    lines += [f"{cell} {own['size']} {own['root']}" for cell, own in sorted(content["cells"].items())]
    return "\n".join(lines) + "\n"
