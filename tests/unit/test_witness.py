"""Witnesses: a log that has grown is signed; one that was changed is refused, and reported."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from cells.audit.checks.alarms import LogAlarms
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.proofs.keys import CellKeys, checkpoint_body, new_keys
from cells.audit.proofs.prover import Prover
from cells.audit.proofs.tree import consistency_spans
from cells.audit.verify.note import checkpoint_in
from cells.audit.verify.tree import leaf_hash, tree_root
from cells.audit.witness.cosigner import Asked, Witness
from cells.audit.witness.cosigning import Cosigning
from cells.cell import Cell
from cells.domain.audit.refusals import (
    CheckpointsRenumbered,
    LogForked,
    LogKeyChanged,
    LogShrunk,
    NoKeyToSign,
    WitnessedOtherwise,
)
from cells.domain.commands import ReportMismatches
from cells.domain.refusals import DataLost, FieldInvalid, Refused
from cells.store.ports import PeerUnknown
from cells.time.clocks import SystemClock
from tests.doubles.proofs import MemoryProofs
from tests.doubles.store import MemoryStore
from tests.local_cells import build_cell, leading, open_user, until, until_async
from tests.unit.test_merkle import leaves, made

HERE, AWAY = "us-east", "eu-west"
KEYS, WITNESS_KEYS = new_keys(HERE, os.urandom), new_keys(AWAY, os.urandom)


def witness_of(store: MemoryStore | None = None, **more: object) -> Witness:
    proofs = MemoryProofs(store or MemoryStore(AWAY))
    given = {"cell": AWAY, "key": WITNESS_KEYS.witness, "proofs": proofs, "clock": SystemClock(), **more}
    return Witness(**given)  # type: ignore[arg-type]


def asked(size: int, old_size: int = 0, *, keys: CellKeys = KEYS, other: bool = False, sequence: int = 0) -> Asked:
    """The request of a log with so many leaves; with `other`, its third leaf differs."""
    hashes = leaves(size)
    if other:
        hashes[2] = leaf_hash(b"other")
    note = keys.log.note(checkpoint_body(f"cellbook/{HERE}", size, tree_root(hashes), sequence))
    return Asked(
        key=str(keys.log.verifier), note=note, old_size=old_size, path=made(hashes, consistency_spans(old_size, size))
    )


async def test_a_log_that_grows_is_cosigned() -> None:
    """From nothing on, from the last seen size, and repeatedly. The auditor checks exactly the signed checkpoint."""
    witness = witness_of()
    for size, old_size in ((3, 0), (7, 3), (7, 7), (300, 7)):
        request = asked(size, old_size)
        line = await witness.cosign(HERE, request)
        found = checkpoint_in(request.note + line, [KEYS.log.verifier, WITNESS_KEYS.witness.verifier])
        assert [name for name, _ in found.cosigned] == [f"cellbook/{AWAY}/witness"]
    assert not witness.refused


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (asked(6, 7), LogShrunk),
        (asked(5, 0), LogShrunk),
        (asked(9, 7, other=True), LogForked),
        (asked(7, 7, other=True), LogForked),
        (asked(9, 7, keys=new_keys(HERE, os.urandom)), LogKeyChanged),
    ],
)
async def test_a_log_that_is_not_what_it_was_is_refused(request_: Asked, refusal: type[Refused]) -> None:
    """Cut short, rewritten, or signed by another key: counted, and the earlier checkpoint stays."""
    witness = witness_of()
    await witness.cosign(HERE, asked(7))
    with pytest.raises(refusal):
        await witness.cosign(HERE, request_)
    assert witness.refused == {HERE: 1}
    await witness.cosign(HERE, asked(9, 7))


@pytest.mark.parametrize("sequence", [0, 1, 2, 5])
async def test_a_number_that_cannot_follow_is_refused(sequence: int) -> None:
    """The number rises by at most one per event, and the witness's signature covers it, too."""
    witness = witness_of()
    await witness.cosign(HERE, asked(3))
    await witness.cosign(HERE, asked(7, 3, sequence=2))
    with pytest.raises(CheckpointsRenumbered):
        await witness.cosign(HERE, asked(9, 7, sequence=sequence))
    assert witness.refused == {HERE: 1}
    for request in (asked(7, 7, sequence=2), asked(9, 7, sequence=4)):
        line = await witness.cosign(HERE, request)
        assert checkpoint_in(request.note + line, [KEYS.log.verifier, WITNESS_KEYS.witness.verifier]).cosigned


async def test_a_peer_cannot_fill_the_witness_s_log() -> None:
    """One alarm for each kind, however many checkpoints of other sizes it shows, one after the other or together."""
    cell, recorded = build_cell(AWAY, MemoryStore(AWAY)), list[ReportMismatches]()

    async def record(command: ReportMismatches) -> None:
        await asyncio.sleep(0)
        recorded.append(command)

    async with leading(cell):
        witness = witness_of(alarms=LogAlarms(record=record, time=cell.time))
        await witness.cosign(HERE, asked(9))
        calls = [witness.cosign(HERE, asked(size)) for size in (1, 2, 3)]
        assert all(isinstance(each, LogShrunk) for each in await asyncio.gather(*calls, return_exceptions=True))
        for request in (asked(4), asked(10, 9, other=True), asked(11, 9, other=True)):
            with pytest.raises((LogShrunk, LogForked)):
                await witness.cosign(HERE, request)
    assert [each.findings[0].row for each in recorded] == [f"log of {HERE}"] * 2


async def test_without_its_memory_a_witness_would_sign_a_fork() -> None:
    """Ablation: a witness without memory signs a checkpoint that the first one refuses."""
    witness = witness_of()
    await witness.cosign(HERE, asked(7))
    with pytest.raises(LogForked):
        await witness.cosign(HERE, asked(7, 7, other=True))
    assert await witness_of().cosign(HERE, asked(7, other=True))


async def test_who_begins_elsewhere_is_told_where_to_begin() -> None:
    """After a lost answer, or a race of two processes: neither is an alarm."""
    witness = witness_of()
    await witness.cosign(HERE, asked(7))
    for old_size in (0, 5, 8):
        with pytest.raises(WitnessedOtherwise) as caught:
            await witness.cosign(HERE, asked(9, old_size))
        assert caught.value.facts["size"] == 7
    proofs = witness.proofs
    before = await proofs.witnessed(f"cellbook/{HERE}")
    assert before is not None
    assert await proofs.witness(before._replace(size=8), before)
    assert not await proofs.witness(before._replace(size=9), before)
    assert not witness.refused


async def test_a_cell_speaks_for_its_own_log_alone() -> None:
    """With its own key, in the form of a checkpoint; and a pinned key overrides the one sent."""
    for peer, request in (
        (AWAY, asked(7)),
        (HERE, Asked(key="junk", note="", old_size=0, path=())),
        (HERE, Asked(key=asked(1).key, note="junk", old_size=0, path=())),
        (HERE, Asked(key=asked(1).key, note=asked(7, keys=new_keys(HERE, os.urandom)).note, old_size=0, path=())),
        (HERE, Asked(key=str(KEYS.witness.verifier), note=asked(7).note, old_size=0, path=())),
    ):
        with pytest.raises(FieldInvalid):
            await witness_of().cosign(peer, request)
    pinned = {f"cellbook/{HERE}": new_keys(HERE, os.urandom).log.verifier}
    with pytest.raises(LogKeyChanged):
        await witness_of(pinned=pinned).cosign(HERE, asked(7))
    with pytest.raises(NoKeyToSign):
        await witness_of(key=None).cosign(HERE, asked(7))


# --- the cell that is witnessed ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class DirectWitnesses:
    witness: Witness
    # Answers that are lost on the way back, and calls that do not arrive.
    lost: int = 0
    cut: bool = False
    asked: list[Asked] = field(default_factory=list)

    async def names(self) -> Sequence[str]:
        return [AWAY]

    async def cosign(self, witness: str, asked: Asked) -> str:
        if self.cut:
            raise PeerUnknown(f"{witness} is cut off")
        self.asked.append(asked)
        line = await self.witness.cosign(HERE, asked)
        if self.lost:
            self.lost -= 1
            raise PeerUnknown("the answer was lost")
        return line


@dataclass(slots=True, kw_only=True)
class Signing:
    cell: Cell
    checkpoint_signer: CheckpointSigner
    cosigning: Cosigning
    prover: Prover

    async def cosigned(self) -> None:
        """Waits until the witness, too, has signed the last checkpoint of all durable events."""

        async def so() -> bool:
            for each in self.cosigning._progress.values():
                each.not_before_s = 0.0
            await self.cosigning.poll()
            found = await self.prover.proofs.last_cosigned()
            return found is not None and found.size == self.cell.time.durable_position

        await until_async(so)


@asynccontextmanager
async def signing(store: MemoryStore, proofs: MemoryProofs, witnesses: DirectWitnesses) -> AsyncIterator[Signing]:
    cell = build_cell(HERE, store)
    checkpoint_signer = CheckpointSigner(
        store=proofs, time=cell.time, key=KEYS.log, checkpoint_file=None, events_max=1, pause_max_s=0.1
    )
    cosigning = Cosigning(checkpoint_signer=checkpoint_signer, proofs=proofs, witnesses=witnesses)
    cell.tasks += [checkpoint_signer, cosigning]
    prover = Prover(cell=HERE, store=store, proofs=proofs)
    async with leading(cell):
        yield Signing(cell=cell, checkpoint_signer=checkpoint_signer, cosigning=cosigning, prover=prover)


async def test_the_checkpoint_given_away_is_the_cosigned_one() -> None:
    """Each is requested once, from the witness's last size; after a lost answer, from its present one."""
    store, witnesses = MemoryStore(HERE), DirectWitnesses(witness_of())
    async with signing(store, MemoryProofs(store), witnesses) as here:
        await open_user(here.cell, 5)
        await here.cosigned()
        witnesses.lost = 1
        await open_user(here.cell, 5)
        await here.cosigned()
        given = await here.prover.checkpoint()
        assert given.checkpoint.size == given.last_size == 4
        keys = [KEYS.log.verifier, WITNESS_KEYS.witness.verifier]
        assert len(checkpoint_in(given.checkpoint.text, keys).cosigned) == 1
        witnesses.cut = True
        await open_user(here.cell)
        await until_async(lambda: _signed(here, 5))
        given = await here.prover.checkpoint()
        assert (given.checkpoint.size, given.last_size, given.position) == (4, 5, 5)
        await here.cosigning.poll()
        assert here.cosigning.problems == {AWAY: "eu-west is cut off"}


async def _signed(here: Signing, size: int) -> bool:
    return here.checkpoint_signer.last is not None and here.checkpoint_signer.last.size == size


class LyingWitness(DirectWitnesses):
    """It proves nothing, or presents a checkpoint that this log has not signed."""

    async def cosign(self, witness: str, asked: Asked) -> str:
        origin, _, *rest = asked.note.split("\n")
        note = "\n".join([origin, str(2**40), *rest])
        raise LogShrunk(witness=witness, origin=origin, size=2**40, claimed=asked.old_size, note=note)


async def test_a_witness_that_lies_stops_nobody() -> None:
    """Its statement about this log is a claim, unless it presents a checkpoint with the log's own signature."""
    store = MemoryStore(HERE)
    async with signing(store, MemoryProofs(store), LyingWitness(witness_of())) as here:
        await open_user(here.cell, 5)
        await until(lambda: here.cell.time.disputed == {AWAY: 2**40})
        await open_user(here.cell)
        assert not here.cell.time.lost


async def test_a_cell_put_back_from_an_older_copy_is_told_so_by_its_witness() -> None:
    """It has signed more than its log now has: from then on it decides nothing."""
    witnesses = DirectWitnesses(witness_of())
    store = MemoryStore(HERE)
    async with signing(store, MemoryProofs(store), witnesses) as here:
        await open_user(here.cell, 5)
        await here.cosigned()
    store = MemoryStore(HERE)
    async with signing(store, MemoryProofs(store), witnesses) as here:
        await open_user(here.cell)
        await until_async(lambda: _signed(here, 1))
        await here.cosigning.poll()
        # The witness presents this cell's own checkpoint, and the next commit confirms the log's end.
        await until(lambda: here.cell.time.lost)
        assert "takes some back" in here.cosigning.problems[AWAY]
        with pytest.raises(DataLost, match="own position 2, beyond its head"):
            await open_user(here.cell)
