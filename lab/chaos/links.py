"""The link between two cells that can be cut and restored, while all other links stay up."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lab.member import Member

# The two regions whose link is cut. Each orchestrates sagas across it.
NEAR, FAR = "us-east", "eu-west"
ENDS = (NEAR, FAR)


class LinkKind(StrEnum):
    AUTO = "auto"
    NETNS = "netns"
    PROXY = "proxy"


@dataclass(slots=True)
class Link:
    """NEAR and FAR reach each other only through it. `made_of` and `cut_by` are for the report."""

    kind: LinkKind
    made_of: str
    cut_by: str

    async def prepare(self) -> None:
        """Called before the members are started."""

    def plan(self, folder: Path, ports: Sequence[int]) -> list[Member]:
        """The router and three cells."""
        raise NotImplementedError

    async def connect(self, members: Sequence[Member]) -> None:
        """Called when the members run."""

    async def cut(self) -> None:
        """From here on nothing passes either way, and neither side is notified."""

    async def mend(self) -> None:
        """Everything passes again."""

    async def close(self) -> None:
        """Removes what does not end with the processes."""
