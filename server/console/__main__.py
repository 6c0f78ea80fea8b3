"""The console's process: `python -m server.console`, or `cellbook console`."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence

import structlog
import uvicorn

from server.cli.access import PLAIN, Access, access_by_files, access_by_keys
from server.console.app import build_app
from server.console.console import make_client
from server.console.http import ImpatientProtocol
from server.console.settings import ConsoleSettings
from server.shell.files import write_durably
from server.shell.hosting.host import ListenFailed
from server.shell.hosting.process import run_process
from server.shell.observability.logging import configure_logging
from server.shell.settings.addresses import Address, parse_address
from server.shell.settings.host import load_settings_or_exit

log = structlog.get_logger()

# How long running requests may continue after SIGTERM. Live pages end with it.
GRACE_S = 2
# More are answered 503 at once. A live page holds one.
CONNECTIONS_MAX = 1_000


class Server(uvicorn.Server):
    """Ends when it is told, not by signals: they are its caller's."""

    on_started: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def access_of(settings: ConsoleSettings) -> Access:
    """Raises TlsInvalid, KeysInvalid."""
    if settings.keys is not None:
        return access_by_keys(settings.keys)
    return access_by_files(settings.tls, None) if settings.tls is not None else PLAIN


async def serve(settings: ConsoleSettings) -> None:
    """Serves until it is cancelled. Raises TlsInvalid, KeysInvalid, ListenFailed."""
    access = access_of(settings)
    with listening(settings) as listener:
        address = Address(parse_address(settings.listen).host, listener.getsockname()[1])
        async with make_client(settings, access) as client:
            settings = settings.model_copy(update={"listen": str(address)})
            app = build_app(settings, client, access)
            server = Server(
                uvicorn.Config(
                    app,
                    http=ImpatientProtocol,
                    ssl_certfile=settings.https_cert,
                    ssl_keyfile=settings.https_key,
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    proxy_headers=False,
                    ws="none",
                    limit_concurrency=CONNECTIONS_MAX,
                    timeout_graceful_shutdown=GRACE_S,
                )
            )
            server.on_started = lambda: tell_ready(settings, address)
            await serve_until_cancelled(server, listener)


async def serve_until_cancelled(server: Server, listener: socket.socket) -> None:
    try:
        await server.serve(sockets=[listener])
    except asyncio.CancelledError:
        await server.shutdown(sockets=[listener])
        raise


@contextlib.contextmanager
def listening(settings: ConsoleSettings) -> Iterator[socket.socket]:
    """Raises ListenFailed."""
    wanted = parse_address(settings.listen)
    try:
        listener = socket.create_server(
            (wanted.host, wanted.port), family=socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
        )
    except OSError as error:
        raise ListenFailed(
            f"listen: cannot listen on {wanted} ({error.strerror}): end what uses it, or choose another address"
        ) from None
    with listener:
        yield listener


def tell_ready(settings: ConsoleSettings, address: Address) -> None:
    log.info("ready", address=str(address))
    if settings.ready_file is not None:
        facts = {"pid": os.getpid(), "address": str(address)}
        write_durably(settings.ready_file, json.dumps(facts).encode())


def main(argv: Sequence[str] | None = None, *, program: str = "console") -> None:
    settings = load_settings_or_exit(ConsoleSettings, sys.argv[1:] if argv is None else argv, program=program)
    configure_logging(settings.log_level)
    run_process(serve(settings), program=program, drain_grace_ms=GRACE_S * 1_000)


if __name__ == "__main__":
    main()
