"""Named queries, for services that have no ledger of their own."""

from cells.sql import queries

__all__ = ["queries"]
