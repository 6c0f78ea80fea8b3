"""Builds the parts that make, serve and check a cell's proofs."""

from pathlib import Path

from cells.audit.alarms import LogAlarms
from cells.audit.cosignatures import Cosignatures
from cells.audit.cosigning import Cosigning
from cells.audit.desk import AuditDesk
from cells.audit.export_source import PostgresExport
from cells.audit.exporter import Exporter
from cells.audit.keys import CellKeys, origin_of
from cells.audit.log_watch import LogWatch
from cells.audit.notary import Notary
from cells.audit.proof_store import PostgresProofs
from cells.audit.proofs import Proofs
from cells.audit.prover import Prover
from cells.audit.verify.note import VerifierKey
from cells.audit.witness import Witness
from cells.cell import Cell
from cells.celltime import CellTime
from cells.head_seal import HeadSeal
from cells.outcome_seal import OutcomeSeal
from cells.store import PostgresStore
from server.audit_peers import AuditPeers
from server.keyfile import keys_of, outside_witnesses, verifier_keys
from server.memo import FileMemo
from server.peers import GrpcPeers
from server.settings import ServerSettings
from server.state import require_writable
from server.witnesses import GrpcWitnesses

MEMO = "checkpoint.last"


def add_proofs(settings: ServerSettings, cell: Cell, store: PostgresStore, peers: GrpcPeers) -> Proofs:
    """Starts growing the tree, signing and witnessing. Raises SigningKeysInvalid, MemoInvalid, StateNotWritable."""
    keys, proofs = keys_of(settings), PostgresProofs(pool=store.reads)
    cell.notary = Notary(
        store=proofs,
        time=cell.time,
        key=keys.log if keys is not None else None,
        memo=kept_memo(settings, keys, cell.time) if keys is not None else None,
        events_max=settings.checkpoint_events,
        pause_max_s=settings.checkpoint_ms / 1_000,
        accepted=settings.accept_head or 0,
        signed=lambda checkpoint: store.seal.signed(checkpoint.size) if store.seal is not None else None,
    )
    witnesses = GrpcWitnesses(cell=settings.cell, peers=AuditPeers(peers), wanted=settings.witnesses)
    cell.cosigning = Cosigning(notary=cell.notary, proofs=proofs, witnesses=witnesses)
    source = PostgresExport(pool=store.reads)
    cell.log_watch = LogWatch(
        notary=cell.notary, source=source, proofs=proofs, events_per_s=settings.log_watch_events_per_s
    )
    cell.witness = Witness(
        cell=settings.cell,
        key=keys.witness if keys is not None else None,
        proofs=proofs,
        clock=cell.time.clock,
        pinned=_pinned(settings.witnessed_keys_file),
    )
    return Proofs(
        prover=Prover(cell=settings.cell, store=store, proofs=proofs),
        exporter=Exporter(
            cell=settings.cell,
            origin=origin_of(settings.cell),
            keys=[str(key.verifier) for key in (keys.log, keys.witness)] if keys is not None else [],
            source=source,
            proofs=proofs,
        ),
        witness=cell.witness,
        cosignatures=Cosignatures(
            cell=settings.cell,
            keys=outside_witnesses(settings.witness_keys_file),
            proofs=proofs,
            clock=cell.time.clock,
        ),
    )


def head_seal(settings: ServerSettings) -> HeadSeal | None:
    """None if the cell has no keys. Raises SigningKeysInvalid."""
    keys = keys_of(settings)
    if keys is None:
        return None
    outcomes = OutcomeSeal(keys.secret("replay"))
    return HeadSeal(cell=settings.cell, key=keys.secret("head"), outcomes=outcomes, accepted=settings.accept_head)


def tell_the_log(cell: Cell, desk: AuditDesk) -> None:
    """A changed log, this cell's or another's, becomes an event in this cell's log."""
    alarms = LogAlarms(record=desk.record, time=cell.time)
    if cell.log_watch is not None and cell.witness is not None:
        cell.log_watch.alarms = cell.witness.alarms = alarms


def _pinned(path: Path | None) -> dict[str, VerifierKey]:
    return {key.name: key for key in verifier_keys(path)} if path is not None else {}


def memo_of(settings: ServerSettings, keys: CellKeys) -> FileMemo:
    """The loaded memo. Raises MemoInvalid."""
    key_file = settings.checkpoint_key_file
    beside = key_file.parent if key_file is not None else settings.data or Path()
    folder = settings.state_dir or settings.data or beside
    memo = FileMemo(folder / f"{settings.cell}.{MEMO}", keys.log.verifier, old=beside / MEMO)
    memo.load()
    return memo


def kept_memo(settings: ServerSettings, keys: CellKeys, time: CellTime) -> FileMemo:
    """Raises MemoInvalid, StateNotWritable."""
    memo = memo_of(settings, keys)
    require_writable(memo.path.parent, "the last checkpoint that the cell has signed")
    last = memo.last()
    if last is not None:
        time.remember(last.size)
    return memo


async def check_memo(cell: Cell) -> None:
    """Raises LogShorter."""
    if cell.notary is not None and isinstance(cell.notary.memo, FileMemo):
        cell.notary.memo.check((await cell.store.head()).position)
