"""The link between two cells that can be cut and mended, while all other links stand."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from server.cli.cluster import Member

# The two regions between which the cable is cut. Each of them orchestrates sagas across it.
NEAR, FAR = "us-east", "eu-west"
ENDS = (NEAR, FAR)


class LinkKind(StrEnum):
    AUTO = "auto"
    NETNS = "netns"
    PROXY = "proxy"


class Link(Protocol):
    # What it is made of, and how it is cut, for a person to read.
    made_of: str
    cut_by: str
    kind: LinkKind

    async def prepare(self) -> None:
        """Before the members are started."""

    def plan(self, folder: Path, ports: Sequence[int]) -> list[Member]:
        """The router and three cells, of which NEAR and FAR reach each other by this link alone."""

    async def connect(self, members: Sequence[Member]) -> None:
        """Once the members run."""

    async def cut(self) -> None:
        """From here on nothing passes, either way, and nobody is told."""

    async def mend(self) -> None:
        """All passes again."""

    async def close(self) -> None:
        """Takes away whatever was made."""
