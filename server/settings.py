"""The settings of one cell's process."""

from typing import Annotated

from pydantic import Field

from cells.writer import BATCH_MAX
from server.shell.config import AddressTable, AddressText, CellName, HostSettings


class ServerSettings(HostSettings):
    cell: CellName = Field(description="this cell's name: lower case letters, digits and hyphens")
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{0,32}$")] = Field(
        default="", description='where the cell keeps its data: "eu"'
    )
    router: AddressText = Field(default="", description="host:port of the router; may be empty")
    peers: AddressTable = Field(
        default={}, description="other cells, name=host:port,...; these win over what the router says"
    )
    max_offset_ms: int = Field(default=500, ge=1, le=60_000, description="how far ahead of ours a peer's clock may be")
    settlement_timeout_ms: int = Field(
        default=3_600_000, ge=1_000, description="how long a settlement may take before it is rolled back"
    )
    bid_valid_ms: int = Field(
        default=10_000, ge=100, le=3_600_000, description="how long a bid into another cell stays valid"
    )
    fee_bps: int = Field(
        default=250, ge=0, le=10_000, description="the house's share of a sale, in hundredths of a percent"
    )
    batch_max: int = Field(
        default=BATCH_MAX, ge=1, le=10_000, description="how many commands one transaction takes at most"
    )
    failpoints: str = Field(default="", description="for tests: where to fail, and how")
