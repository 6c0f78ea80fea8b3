"""`cellbook doctor`: finds present and coming problems, and says what to do."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from server.audit.memory import CheckpointFile
from server.cli import report
from server.cli.access import Access, chosen_access
from server.cli.command import EXIT_FAILED, HERE, Json, router_option, run
from server.cli.doctor import database, files, processes
from server.cli.doctor.findings import Examined, Finding, State
from server.cli.screen import literal
from server.process.settings import ServerSettings
from server.shell.postgres.embedded import DATABASE, EmbeddedPostgres
from server.shell.settings.host import HostSettings

_COLOURS = {State.OK: "green", State.NOTE: "cyan", State.WARN: "yellow", State.FAIL: "red bold"}


def doctor(
    router: Annotated[str, router_option("Ask this router, and every process that it lists.")] = "",
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", metavar="FILE", help="A process's settings, its keys, disk and database; repeatable."),
    ] = None,
    _json: Json = False,
) -> None:
    """Examine processes, clocks, certificates, settings and databases; report problems and what to do.

    Without options it examines the router at its usual port. Exit code 1: something is wrong.
    """

    async def work() -> None:
        asked = router or ("" if config else HERE)
        findings = await examined(asked, config or (), chosen_access())
        listed = [asdict(each) for each in findings]
        report.show(lambda: {"healthy": healthy(findings), "findings": listed}, partial(tell, findings))
        if not healthy(findings):
            raise typer.Exit(EXIT_FAILED)

    run(work())


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


def tell(findings: Sequence[Finding], console: Console) -> None:
    table = report.table("", "where", "check", "found")
    for each in findings:
        mark = f"[{_COLOURS[each.state]}]{each.state}[/]"
        advice = f"\n[dim]{literal(each.advice)}[/dim]" if each.advice else ""
        table.add_row(mark, literal(each.where), literal(each.check), f"{literal(each.detail)}{advice}")
    console.print(table)
    console.print(_verdict(findings), soft_wrap=True)


def healthy(findings: Sequence[Finding]) -> bool:
    return not any(each.state is State.FAIL for each in findings)


def _verdict(findings: Sequence[Finding]) -> str:
    counts = {state: sum(each.state is state for each in findings) for state in State}
    text = f"{counts[State.OK]} in order, {counts[State.WARN]} to look at, {counts[State.FAIL]} wrong"
    return f"\n[{'green' if healthy(findings) else 'red'} bold]{text}[/]"
