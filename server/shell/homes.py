"""Where users are at home, for services that have no ledger of their own."""

from cells.domain.moves.home import EPOCHS_FORGOTTEN_MAX, Home

__all__ = ["EPOCHS_FORGOTTEN_MAX", "Home"]
