"""Builds the parts that make, serve and check a cell's proofs."""

from pathlib import Path

from cells.audit.checks.alarms import LogAlarms
from cells.audit.checks.log_watch import LogWatch
from cells.audit.export.exporter import Exporter
from cells.audit.export.source import PostgresExport
from cells.audit.proofs.checkpoint_signer import CheckpointSigner
from cells.audit.proofs.facade import Proofs
from cells.audit.proofs.keys import CellKeys, origin_of
from cells.audit.proofs.prover import Prover
from cells.audit.proofs.store import PostgresProofs
from cells.audit.reconcile.service import ReconciliationService
from cells.audit.verify.note import VerifierKey
from cells.audit.witness.cosignatures import Cosignatures
from cells.audit.witness.cosigner import Witness
from cells.audit.witness.cosigning import Cosigning
from cells.cell import Cell
from cells.encoding.head_seal import HeadSeal
from cells.encoding.outcome_seal import OutcomeSeal
from cells.store.postgres import PostgresStore
from cells.time.celltime import CellTime
from server.audit_peers import AuditPeers
from server.checkpoint_file import CheckpointFile
from server.keyfile import keys_of, outside_witnesses, verifier_keys
from server.peers import GrpcPeers
from server.settings import ServerSettings
from server.state import require_writable
from server.witnesses import GrpcWitnesses

FILE_NAME = "checkpoint.last"


def add_proofs(settings: ServerSettings, cell: Cell, store: PostgresStore, peers: GrpcPeers) -> Proofs:
    """Starts growing the tree, signing and witnessing.

    Raises SigningKeysInvalid, CheckpointFileInvalid, StateNotWritable.
    """
    keys, proofs = keys_of(settings), PostgresProofs(pool=store.reads)
    cell.checkpoint_signer = CheckpointSigner(
        store=proofs,
        time=cell.time,
        key=keys.log if keys is not None else None,
        checkpoint_file=kept_checkpoint_file(settings, keys, cell.time) if keys is not None else None,
        events_max=settings.checkpoint_events,
        pause_max_s=settings.checkpoint_ms / 1_000,
        accepted=settings.accept_head or 0,
        signed=lambda checkpoint: store.seal.signed(checkpoint.size) if store.seal is not None else None,
    )
    witnesses = GrpcWitnesses(cell=settings.cell, peers=AuditPeers(peers), wanted=settings.witnesses)
    cell.cosigning = Cosigning(checkpoint_signer=cell.checkpoint_signer, proofs=proofs, witnesses=witnesses)
    source = PostgresExport(pool=store.reads)
    cell.log_watch = LogWatch(
        checkpoint_signer=cell.checkpoint_signer,
        source=source,
        proofs=proofs,
        events_per_s=settings.log_watch_events_per_s,
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


def tell_the_log(cell: Cell, reconciliation: ReconciliationService) -> None:
    """A changed log, this cell's or another's, becomes an event in this cell's log."""
    alarms = LogAlarms(record=reconciliation.record, time=cell.time)
    if cell.log_watch is not None and cell.witness is not None:
        cell.log_watch.alarms = cell.witness.alarms = alarms


def _pinned(path: Path | None) -> dict[str, VerifierKey]:
    return {key.name: key for key in verifier_keys(path)} if path is not None else {}


def checkpoint_file_of(settings: ServerSettings, keys: CellKeys) -> CheckpointFile:
    """The loaded checkpoint file. Raises CheckpointFileInvalid."""
    key_file = settings.checkpoint_key_file
    beside = key_file.parent if key_file is not None else settings.data or Path()
    folder = settings.state_dir or settings.data or beside
    checkpoint_file = CheckpointFile(folder / f"{settings.cell}.{FILE_NAME}", keys.log.verifier, old=beside / FILE_NAME)
    checkpoint_file.load()
    return checkpoint_file


def kept_checkpoint_file(settings: ServerSettings, keys: CellKeys, time: CellTime) -> CheckpointFile:
    """Raises CheckpointFileInvalid, StateNotWritable."""
    checkpoint_file = checkpoint_file_of(settings, keys)
    require_writable(checkpoint_file.path.parent, "the last checkpoint that the cell has signed")
    last = checkpoint_file.last()
    if last is not None:
        time.remember(last.size)
    return checkpoint_file


async def check_checkpoint_file(cell: Cell) -> None:
    """Raises LogShorter."""
    if cell.checkpoint_signer is not None and isinstance(cell.checkpoint_signer.checkpoint_file, CheckpointFile):
        cell.checkpoint_signer.checkpoint_file.check((await cell.store.head()).position)
