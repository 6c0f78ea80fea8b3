"""Rows as a writer would hand them to a store, with everything that a test does not care about filled in."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from cells.domain.account.account import Account, Balance, Hold
from cells.domain.auction.asset import Asset
from cells.domain.auction.auction import Auction, AuctionState
from cells.domain.decision import State
from cells.domain.event import postings
from cells.domain.events import AnyEvent, Deposited
from cells.domain.sagas.definition import SagaKind
from cells.domain.sagas.saga import LegProgress, Saga, SagaState
from cells.domain.sagas.saga_events import ReleaseFacts
from cells.domain.values import Kind
from cells.encoding import codec
from cells.encoding.derived import state_columns
from cells.store.ports import AccountEntryRow, Batch, EventRow, Head, OutcomeRow, ProjectionRow

NOW = datetime(2026, 3, 4, 5, 6, 7, 891_011, tzinfo=UTC)
NOW_MS = 1_772_600_767_891


def event_row(position: int, event: AnyEvent | None = None, **columns: Any) -> EventRow:  # noqa: ANN401
    """A row of the log, its hash right. `columns` replace what is made up here."""
    event = event or Deposited(currency="USD", amount_minor=100, external_reference=str(uuid4()))
    aggregate_id = columns.pop("aggregate_id", None) or uuid4()
    metadata = codec.encode_metadata(event.version, uuid4(), "service/test", None)
    row = EventRow(
        position=position,
        event_id=uuid4(),
        event_type=event.event_type,
        aggregate_id=aggregate_id,
        stream_version=1,
        causation_id=None,
        correlation_id=uuid4(),
        hlc_physical=NOW_MS,
        hlc_logical=position % 65_536,
        vector_clock=codec.canonical({"us-east": position}),
        payload=codec.encode_event(event, postings(event, aggregate_id)),
        metadata=metadata,
        user_id=None,
        recorded_at=NOW,
        leaf_hash=b"",
    )._replace(**columns)
    return row._replace(leaf_hash=codec.leaf_hash(row))


def batch_on(head: Head, *events: EventRow, **parts: Any) -> Batch:  # noqa: ANN401
    """A batch that goes on from `head`."""
    before = parts.setdefault("position_before", head.position)
    parts.setdefault("events", events)
    defaults = {
        "epoch": head.epoch,
        "position_after": before + len(parts["events"]),
        "hlc_bound_ms": NOW_MS + 1_000,
    }
    return Batch(**{**defaults, **parts})


def entry_row(position: int, *, account_id: UUID | None = None, after: int = 100, change: int = 100) -> AccountEntryRow:
    return AccountEntryRow(account_id or uuid4(), "USD", position, change, 0, 0, after, 0, 0)


def outcome_row(command_id: UUID | None = None, **columns: Any) -> OutcomeRow:  # noqa: ANN401
    return OutcomeRow(
        command_id=command_id or uuid4(),
        fingerprint=b"\x01" * 32,
        outcome='{"accepted":{"available_minor":"100"}}',
        position=1,
        hlc_physical=NOW_MS,
        hlc_logical=0,
        recorded_at=NOW,
        user_id=None,
        principal="service/test",
    )._replace(**columns)


def projection_row(state: State, aggregate_id: UUID | None = None, version: int = 1) -> ProjectionRow:
    kinds: dict[type[State], Kind] = {Account: Kind.ACCOUNT, Asset: Kind.ASSET, Auction: Kind.AUCTION, Saga: Kind.SAGA}
    columns = tuple(state_columns(state).values())
    return ProjectionRow(kinds[type(state)], aggregate_id or uuid4(), version, codec.encode_state(state), columns)


def account(*, available: int = 100, hold: int | None = None, expire_time_ms: int | None = None) -> Account:
    holds = {}
    if hold is not None:
        holds[uuid4()] = Hold(
            currency="USD", amount_minor=hold, expire_time_ms=expire_time_ms, bids_minor={uuid4(): hold}
        )
    return Account(home_epoch=1, balances={"USD": Balance(available_minor=available)}, holds=holds)


def asset() -> Asset:
    return Asset(owner_id=uuid4(), owner_cell="us-east", description="a lamp")


def auction(*, state: AuctionState = AuctionState.ACTIVE, escrow: int = 0, end_time_ms: int = NOW_MS) -> Auction:
    return Auction(
        asset_id=uuid4(),
        seller_id=uuid4(),
        seller_cell="us-east",
        currency="USD",
        opening_minor=100,
        increment_minor=1,
        end_time_ms=end_time_ms,
        extension_ms=0,
        settlement_timeout_ms=1_000,
        state=state,
        escrow_minor=escrow,
    )


def saga(state: SagaState = SagaState.RUNNING) -> Saga:
    facts = ReleaseFacts(
        auction_id=uuid4(),
        auction_cell="us-east",
        bid_id=uuid4(),
        bidder_id=uuid4(),
        bidder_cell="eu-west",
        currency="USD",
    )
    return Saga(
        kind=SagaKind.RELEASE,
        facts=facts,
        state=state,
        legs=(LegProgress(),),
        cursor=0,
        deadline_ms=None,
        started_ms=NOW_MS,
    )
