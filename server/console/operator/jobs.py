"""Work that a visitor has started in a cell and that takes long, under way or ended."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

from google.protobuf.message import Message

from cells.background import BackgroundTask, note_failure
from server.cli.client import ClientError, LedgerRefusal
from server.console.serving import BadInput

Reply = TypeVar("Reply", bound=Message)


@dataclass(slots=True, kw_only=True)
class Job(ABC, Generic[Reply]):
    """It would end with its listener: the console listens, whether its visitor looks or not."""

    name: ClassVar[str]
    cell: str
    by: str
    problem: str = ""
    _task: BackgroundTask = field(init=False)

    def __post_init__(self) -> None:
        self._task = BackgroundTask(name=f"console_{self.name}", work=self._listen, every_s=None)

    @abstractmethod
    def stream(self) -> AsyncGenerator[Reply, None]:
        """Does the work while it is read. Raises as `Client.items`."""

    @abstractmethod
    def take(self, reply: Reply) -> None:
        """Keeps what the page shows."""

    @property
    def running(self) -> bool:
        return self._task.running

    def start(self) -> None:
        self._task.start()

    async def stop(self, by: str) -> None:
        """Does nothing if it has ended."""
        if self.running:
            self.problem = f"{by} has stopped it"
            await self._task.stop()

    async def _listen(self) -> None:
        try:
            async with aclosing(self.stream()) as stream:
                async for reply in stream:
                    self.take(reply)
        except LedgerRefusal as refused:
            self.problem = refused.message
        except ClientError as error:
            self.problem = str(error)
        except Exception as error:  # noqa: BLE001 - it must not begin again by itself, as a background task does
            note_failure(self._task.name)
            self.problem = f"the console has stopped following it: {type(error).__name__}"


Kind = TypeVar("Kind", bound=Job)  # type: ignore[type-arg]


@dataclass(slots=True)
class Jobs(Generic[Kind]):
    """The last one of each cell."""

    by_cell: dict[str, Kind] = field(default_factory=dict)

    def start(self, begun: Kind) -> None:
        """Raises BadInput: one is under way."""
        last = self.by_cell.get(begun.cell)
        if last is not None and last.running:
            raise BadInput(f"the {begun.name} of {begun.cell} by {last.by} is under way: wait for its end")
        self.by_cell[begun.cell] = begun
        begun.start()
