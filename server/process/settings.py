"""The settings of one cell process."""

import re
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cells.domain.time.vector import POSITION_MAX
from cells.writer.writer import BATCH_MAX
from server.mail.smtp import CONFIRMED_WITHIN_S, TIMEOUT_S, SmtpTls
from server.shell.settings.addresses import parse_address
from server.shell.settings.host import AddressText, CellName, EndpointsTable, HostSettings
from server.shell.settings.security import NameList

_SENDER = re.compile(r"[!-;=?A-~]+@[A-Za-z0-9.-]+")


class ServerSettings(HostSettings):
    cell: CellName = Field(description="this cell's name: lower case letters, digits and hyphens")
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{0,32}$")] = Field(
        default="", description='where the cell keeps its data: "eu"'
    )
    router: AddressText = Field(default="", description="host:port of the router; may be empty")
    peers: EndpointsTable = Field(
        default={},
        description="other cells, name=host:port[+host:port],... with an endpoint for each process of the cell; "
        "they override the router's list",
    )
    max_offset_ms: int = Field(
        default=500, ge=1, le=60_000, description="how far a peer's clock may be ahead of this cell's"
    )
    accepted_position: int = Field(
        default=0,
        ge=0,
        le=POSITION_MAX,
        description="claims of other cells about this log up to this position stop nothing: they are wrong, or the "
        "missing events are known to be lost",
    )
    forgotten_cells: NameList = Field(
        default=(),
        description="cells whose positions are not loaded from the log at the start: each reports its own again",
    )
    settlement_timeout_ms: int = Field(
        default=3_600_000, ge=1_000, description="how long a settlement may take before it is rolled back"
    )
    bid_valid_ms: int = Field(
        default=10_000, ge=100, le=3_600_000, description="how long a bid into another cell stays valid"
    )
    transfer_valid_ms: int = Field(
        default=10_000, ge=100, le=3_600_000, description="how long a transfer to a user of another cell may take"
    )
    user_flows_max: int = Field(
        default=100, ge=1, le=100_000, description="bids and transfers to other cells that one user may have under way"
    )
    move_valid_ms: int = Field(
        default=10_000, ge=100, le=3_600_000, description="how long a user's move may take once the history is copied"
    )
    fee_bps: int = Field(
        default=250, ge=0, le=10_000, description="the house's share of a sale, in hundredths of a percent"
    )
    batch_max: int = Field(
        default=BATCH_MAX, ge=1, le=10_000, description="how many commands one transaction takes at most"
    )
    saga_engine: Literal["native", "temporal"] = Field(
        default="native", description="the engine of the sagas: the cell itself, or a Temporal server's workflows"
    )
    temporal_address: AddressText = Field(
        default="127.0.0.1:7233", min_length=1, description="host:port of the Temporal server"
    )
    temporal_namespace: str = Field(default="default", min_length=1, description="the Temporal namespace")
    temporal_task_queue: str = Field(
        default="", description="the Temporal task queue, different for each cell; empty: cellbook-{cell}"
    )
    temporal_worker: Literal["inside", "apart"] = Field(
        default="inside", description="where the workflows run: inside the cell, or apart, in `cellbook saga-worker`"
    )
    temporal_tls: bool = Field(default=False, description="use TLS to the Temporal server")
    temporal_tls_ca: Path | None = Field(
        default=None, description="PEM file of the roots to trust there; unset: the system's"
    )
    temporal_tls_cert: Path | None = Field(default=None, description="PEM file of our certificate there")
    temporal_tls_key: Path | None = Field(default=None, description="PEM file of that certificate's key")
    vault_key_file: Path | None = Field(
        default=None, description="file with the key that seals names and addresses; unset: vault.key in data, if there"
    )
    checkpoint_key_file: Path | None = Field(
        default=None, description="file with the keys that sign checkpoints; unset: checkpoint.key in data"
    )
    state_dir: Path | None = Field(
        default=None,
        description="writable folder for data that a restored database must not undo: the last signed "
        "checkpoint and the erased persons; unset: data, or the folder of the key files",
    )
    accept_head: int | None = Field(
        default=None,
        ge=1,
        description="accept a log that ends at this position, although nothing proves its last events",
    )
    checkpoint_events: int = Field(
        default=10_000, ge=1, description="a checkpoint is signed after at most this many events"
    )
    checkpoint_ms: int = Field(
        default=10_000, ge=100, le=86_400_000, description="and at most this long after an event, in milliseconds"
    )
    log_watch_events_per_s: int = Field(
        default=250, ge=0, le=100_000, description="events compared with the signed tree per second; 0: none"
    )
    witnesses: NameList = Field(
        default=("*",),
        description="cells that also sign the checkpoints, as witnesses; *: every other cell; empty: none",
    )
    witnessed_keys_file: Path | None = Field(
        default=None, description="file with the public keys of other cells' logs; unset: as first seen of each"
    )
    caller_keys_file: Path | None = Field(
        default=None, description="file with the public keys of callers who sign their commands (docs/security.md)"
    )
    signed_methods: NameList = Field(default=(), description="methods whose callers must sign: Deposit,Withdraw")
    witness_keys_file: Path | None = Field(
        default=None, description="file with the public keys of witnesses outside, at most 16; unset: there are none"
    )
    reconcile_s: int = Field(
        default=3_600, ge=0, le=2_592_000, description="seconds between comparisons of tables and log; 0: on request"
    )
    reconcile_full_s: int = Field(
        default=604_800, ge=0, le=31_536_000, description="the same from the first event on; 0: on request"
    )
    reconcile_events_per_s: int = Field(
        default=20_000,
        ge=0,
        le=10_000_000,
        description="how fast, unless somebody waits; 0: as it goes",
    )
    smtp: AddressText = Field(default="", description="host:port of the mail server; empty: no mail is sent")
    smtp_tls: SmtpTls = Field(
        default="starttls", description="encryption to it: starttls, tls (from the first byte) or none (plain text)"
    )
    smtp_tls_ca: Path | None = Field(
        default=None, description="PEM file of the roots to trust there; unset: the system's"
    )
    smtp_timeout_s: float = Field(
        default=TIMEOUT_S, gt=0, le=600, description="how long it may take to connect, or to answer, in seconds"
    )
    smtp_confirm_timeout_s: float = Field(
        default=CONFIRMED_WITHIN_S, gt=0, le=600, description="how long it may take to confirm a mail, in seconds"
    )
    smtp_username: str = Field(default="", description="the login there; empty: no login")
    smtp_password_file: Path | None = Field(default=None, description="file with the password to log in with")
    mail_from: str = Field(default="", description='the sender of mail: "no-reply@example.org"')

    @model_validator(mode="after")
    def _knows_those_who_must_sign(self) -> Self:
        if unknown := {*self.signed_methods} - {"Deposit", "Withdraw"}:
            raise ValueError(f"signed_methods: expected Deposit and Withdraw, not {', '.join(sorted(unknown))}")
        if self.signed_methods and self.caller_keys_file is None:
            raise ValueError("caller_keys_file: needed together with signed_methods")
        return self

    @model_validator(mode="after")
    def _has_all_of_the_mail(self) -> Self:
        if self.smtp and not self.mail_from:
            raise ValueError('mail_from: needed together with smtp, as in "no-reply@example.org"')
        sender = self.mail_from if self.mail_from.isprintable() else ""
        if self.mail_from and not _SENDER.fullmatch(parseaddr(sender)[1]):
            raise ValueError(
                'mail_from: expected an address, as in "no-reply@example.org" or "Shop <shop@example.org>"'
            )
        if self.smtp and self.smtp_tls == "none" and self.smtp_username and not parse_address(self.smtp).is_loopback:
            raise ValueError("smtp_tls: a password goes to another machine by starttls or tls only")
        if self.smtp and self.vault_key_file is None and self.data is None:
            raise ValueError("vault_key_file: needed together with smtp where data is unset: addresses are sealed")
        return self

    @model_validator(mode="after")
    def _has_all_of_temporals_tls(self) -> Self:
        if (self.temporal_tls_cert is None) != (self.temporal_tls_key is None):
            raise ValueError("temporal_tls_cert: needed together with temporal_tls_key")
        if not self.temporal_tls and (self.temporal_tls_ca or self.temporal_tls_cert):
            raise ValueError("temporal_tls: set it to true where certificates are given")
        return self
