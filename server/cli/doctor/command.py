"""`cellbook doctor`: finds present and coming problems, and says what to do."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from server.audit.memory import CheckpointFile
from server.cli import report
from server.cli.access import Access
from server.cli.doctor import database, files, processes
from server.cli.doctor.findings import Examined, Finding, State
from server.cli.screen import literal
from server.process.settings import ServerSettings
from server.shell.postgres.embedded import EmbeddedPostgres
from server.shell.settings.host import HostSettings

DATABASE = "cellbook"
_COLOURS = {State.OK: "green", State.NOTE: "cyan", State.WARN: "yellow", State.FAIL: "red bold"}


async def examined(router: str, configs: Sequence[Path], access: Access) -> list[Finding]:
    """`router` empty: no process is asked."""
    findings = await processes.examine(router, access) if router else []
    for config in configs:
        settings, found = files.examine_settings(config)
        findings += found
        if settings is not None:
            checkpoint_file, noted = files.examine_checkpoint_file(settings, str(config))
            findings += [*noted, *await _database(settings, checkpoint_file)]
    return findings


async def _database(settings: HostSettings, checkpoint_file: CheckpointFile | None) -> list[Finding]:
    cell = settings.cell if isinstance(settings, ServerSettings) else ""
    where = f"database of {cell or 'the router'}"
    if settings.dsn:
        return await database.examine(settings.dsn, where=where, cell=cell, checkpoint_file=checkpoint_file)
    postgres = EmbeddedPostgres(settings.data) if settings.data is not None else None
    if postgres is None or postgres.pid is None:
        return [Examined(where).fail("connects", "the embedded PostgreSQL is not running", "start the process first")]
    # It is already running: this only finds its socket.
    await postgres.start()
    return await database.examine(postgres.dsn(DATABASE), where=where, cell=cell, checkpoint_file=checkpoint_file)


def tell(findings: Sequence[Finding], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"healthy": healthy(findings), "findings": [asdict(each) for each in findings]}, indent=2))
        return
    table = report.table("", "where", "check", "found")
    for each in findings:
        mark = f"[{_COLOURS[each.state]}]{each.state}[/]"
        advice = f"\n[dim]{literal(each.advice)}[/dim]" if each.advice else ""
        table.add_row(mark, literal(each.where), literal(each.check), f"{literal(each.detail)}{advice}")
    with report.stdout() as console:
        console.print(table)
        console.print(_verdict(findings), soft_wrap=True)


def healthy(findings: Sequence[Finding]) -> bool:
    return not any(each.state is State.FAIL for each in findings)


def _verdict(findings: Sequence[Finding]) -> str:
    counts = {state: sum(each.state is state for each in findings) for state in State}
    told = f"{counts[State.OK]} in order, {counts[State.WARN]} to look at, {counts[State.FAIL]} wrong"
    return f"\n[{'green' if healthy(findings) else 'red'} bold]{told}[/]"
