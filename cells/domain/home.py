"""Where a user is at home, and who may say that it is elsewhere from now on."""

from typing import NamedTuple

# So many moves of one user a directory may have forgotten.
EPOCHS_FORGOTTEN_MAX = 100


class Home(NamedTuple):
    """Where a user is at home; of two that are told, the one of the higher epoch is newer."""

    cell: str
    epoch: int

    def vouches(self, cell: str, epoch: int) -> bool:
        """Whether that cell may say that the user is at home elsewhere from that epoch on: it is the home until then.

        The epoch is the next one; or a few later, where the directory was restored and has forgotten moves.
        """
        return cell == self.cell and self.epoch < epoch <= self.epoch + EPOCHS_FORGOTTEN_MAX
