"""Background tasks, for services that have no ledger of their own."""

from cells.background import BackgroundTask, note_failure

__all__ = ["BackgroundTask", "note_failure"]
