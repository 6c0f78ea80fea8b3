"""Verifies the export of a changed database, as an auditor does."""

from collections.abc import Sequence

from cells.audit.export.source import PostgresExport
from cells.audit.proofs.store import PostgresProofs
from cells.audit.verify.export import Findings, check_export
from cells.audit.verify.note import Checkpoint, Malformed, VerifierKey, any_of
from tests.integration.database import opened_raw
from tests.integration.played import HERE
from tests.integration.proof_rig import exported, exporter_of


async def verified(dsn: str, held: Sequence[Checkpoint], verifiers: Sequence[VerifierKey]) -> set[str]:
    """By an auditor who has kept the last checkpoint, and wants a witness."""
    async with opened_raw(dsn) as store:
        exporter = exporter_of(HERE, PostgresExport(pool=store.reads), PostgresProofs(pool=store.reads))
        lines = await exported(exporter)
    try:
        return _told(check_export(lines, verifiers, held, any_of(1, verifiers)))
    except Malformed:
        return {"the checkpoint"}


def _told(found: Findings) -> set[str]:
    told = set()
    for problem in found.problems:
        text = problem.text
        if "checkpoint" in text and "deleted" in text:
            told.add("the checkpoint")
        elif text.startswith("missing"):
            told.add("the gap" if problem.position < found.last else "the missing end")
        elif text.startswith("not witnessed"):
            told.add("no witness")
        else:
            told.add("the stretch" if problem.last else "the event")
    return told
