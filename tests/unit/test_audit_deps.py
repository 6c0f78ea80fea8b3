"""The judgement of pip-audit's report: a package that was not checked does not count as safe."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "audit_deps.py"
GOOD = {"name": "grpcio", "version": "1.85.1", "vulns": []}
BAD = {"name": "old", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
UNKNOWN = {"name": "nobody", "skip_reason": "Dependency not found on PyPI and could not be audited: nobody (1.0)"}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([GOOD, GOOD], 0, "2 packages: no vulnerability is known"),
        ([GOOD, BAD], 1, "old 1.0: PYSEC-1, fixed in 1.1"),
        ([GOOD, UNKNOWN], 1, "1 of 2 packages could not be audited (nobody)"),
        ([UNKNOWN] * 9, 1, "9 of 9 packages could not be audited"),
        (None, 1, "cannot be reached"),
    ],
)
def test_a_report_is_judged(packages: list[dict[str, Any]] | None, code: int, said: str) -> None:
    """It passes only if every package was checked and nothing was found."""
    report = "" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    done = subprocess.run([sys.executable, TOOL], input=report, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done
