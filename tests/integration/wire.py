"""What stands between a cell and PostgreSQL in a test, and cuts their connections at a chosen word."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

SOCKET = ".s.PGSQL.5432"
# How the client says COMMIT: a simple query.
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"


class Wire:
    """Stands between the store and PostgreSQL, and cuts where it is told to."""

    def __init__(self) -> None:
        # Called with what the client sends; returning False cuts before it is passed on.
        self.before: Callable[[bytes], bool] = lambda _: True
        # Called with the same afterwards; returning False cuts before anything of an answer comes back.
        self.after: Callable[[bytes], bool] = lambda _: True
        self.open = True
        # Swallows what is sent over connections of before, both ways, and closes none: a firewall that forgets.
        self._generation = 0
        # New connections carry nothing either.
        self.swallows = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self, dsn: str) -> AsyncIterator[str]:
        """The DSN by which the database is reached through the wire."""
        real = f"{parse_qs(urlsplit(dsn).query)['host'][0]}/{SOCKET}"
        # Short: a socket's path has a bound.
        with TemporaryDirectory(prefix="wire") as folder:
            server = await asyncio.start_unix_server(
                lambda reader, writer: self._connected(real, reader, writer), Path(folder, SOCKET)
            )
            try:
                yield dsn.replace(real.removesuffix(f"/{SOCKET}"), folder)
            finally:
                server.close()
                self.cut()
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Ends every connection, both ways, at once."""
        abort(self._writers)

    def forget(self) -> None:
        """The connections that there are carry nothing any more, and nobody is told; new ones do."""
        self._generation += 1

    async def _connected(self, real: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            abort({writer})
            return
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(real)
        except OSError:
            abort({writer})
            return
        ends = {writer, server_writer}
        self._writers |= ends
        muted, known = asyncio.Event(), self._generation - self.swallows
        forth = self._forth(self._carried(reader, known), server_writer, muted)
        for coroutine in (forth, self._back(self._carried(server_reader, known), writer, muted)):
            task = asyncio.create_task(coroutine)
            self._tasks.add(task)
            task.add_done_callback(lambda _: abort(ends))

    async def _carried(self, reader: asyncio.StreamReader, known: int) -> AsyncIterator[bytes]:
        while data := await reader.read(65_536):
            if self._generation == known:
                yield data
        if self._generation != known:
            # That the other side has ended is swallowed, too.
            await asyncio.Event().wait()

    async def _forth(self, sent: AsyncIterator[bytes], writer: asyncio.StreamWriter, muted: asyncio.Event) -> None:
        async for data in sent:
            if not self.before(data):
                return
            if not self.after(data):
                muted.set()
            writer.write(data)

    async def _back(self, sent: AsyncIterator[bytes], writer: asyncio.StreamWriter, muted: asyncio.Event) -> None:
        async for data in sent:
            # Answered, that is: done. The client does not hear of it.
            if muted.is_set():
                return
            writer.write(data)


def abort(writers: set[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.transport.abort()


def once(data: bytes) -> Callable[[bytes], bool]:
    """False the first time that `data` is sent."""
    seen: list[bytes] = []

    def check(sent: bytes) -> bool:
        if data in sent and not seen:
            seen.append(data)
            return False
        return True

    return check
