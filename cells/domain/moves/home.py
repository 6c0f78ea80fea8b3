"""A user's home, and which cell may change it."""

from collections.abc import Mapping
from typing import NamedTuple

# The most moves of one user that a restored directory may have lost.
EPOCHS_FORGOTTEN_MAX = 100


class Home(NamedTuple):
    """A user's home; of two answers, the one with the higher epoch is newer."""

    cell: str
    epoch: int

    @classmethod
    def named_in(cls, facts: Mapping[str, object]) -> "Home":
        """The home that the facts of a WRONG_CELL or HOME_CHANGED name."""
        return cls(str(facts["cell"]), int(str(facts.get("epoch", 0))))

    def vouches(self, cell: str, epoch: int) -> bool:
        """Whether the cell may announce the user's next home at that epoch: only the current home may.

        The epoch is the next one, or a few later if the directory was restored and has lost moves.
        """
        return cell == self.cell and self.epoch < epoch <= self.epoch + EPOCHS_FORGOTTEN_MAX
