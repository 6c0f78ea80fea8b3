"""Sums of the past on the wire."""

import pytest

from cells.audit.history.moments import BEGINNING
from cells.audit.reconcile.trial import TrialBalance
from cells.domain.audit.refusals import SumTooLarge
from cells.domain.values import AMOUNT_MAX_MINOR
from server.wire.history import trial_to_proto


def trial(amount_minor: int) -> TrialBalance:
    return TrialBalance({("users/available", "JPY"): amount_minor}, BEGINNING)


@pytest.mark.parametrize("amount_minor", [AMOUNT_MAX_MINOR, -AMOUNT_MAX_MINOR])
def test_a_sum_that_fits_is_told(amount_minor: int) -> None:
    """To the last bit."""
    [line] = trial_to_proto(trial(amount_minor), "us-east").accounts
    assert line.amount_minor == amount_minor


@pytest.mark.parametrize("amount_minor", [AMOUNT_MAX_MINOR + 1, -(2**70)])
def test_a_sum_that_does_not_fit_is_refused(amount_minor: int) -> None:
    """It is neither wrong nor an internal error: the sum of all users may exceed one user's maximum."""
    with pytest.raises(SumTooLarge, match=f"users/available is {amount_minor} JPY"):
        trial_to_proto(trial(amount_minor), "us-east")
