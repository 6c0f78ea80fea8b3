"""CPU time of processes, as the bench counts it."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE

import pytest

from tests.bench.cpu import PROC, cpu_s, told, with_sum

# A parent whose child takes a fifth of a second of CPU time and ends; it says so, and waits.
FAMILY = """
import subprocess, sys
WORK = "import time\\nwhile time.process_time() < 0.2: pass"
subprocess.run([sys.executable, "-c", WORK], check=True)
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not PROC.exists(), reason="this system has no /proc")
async def test_what_an_ended_child_took_still_counts() -> None:
    """PostgreSQL's connections come and go; what they took stays in its sum, and in that of the process above."""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", FAMILY, stdin=PIPE, stdout=PIPE)
    assert parent.stdout is not None
    try:
        await parent.stdout.readline()
        took_s = cpu_s(parent.pid)
        assert took_s >= 0.19
        assert cpu_s(os.getpid()) >= took_s
    finally:
        await parent.communicate(b"")
    with pytest.raises(ProcessLookupError):
        cpu_s(parent.pid)


def test_costs_have_their_sum() -> None:
    """First, as `all`."""
    assert told(with_sum({"cell": 100.0, "postgres": 50.0})) == "all 150, cell 100, postgres 50 us"
