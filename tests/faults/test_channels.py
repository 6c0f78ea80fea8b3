"""Whoever opens channels to a cell outlives it."""

import subprocess
import sys

import pytest

# Where the channels share their connections it is over within the first hundred or two.
ROUNDS = 1_000

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def test_channels_that_come_to_one_address_at_once_do_not_kill_the_process() -> None:
    """GRPC's core has a race between health checks over a shared connection: ours share none."""
    command = [sys.executable, "-m", "tests.faults.channels", str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
