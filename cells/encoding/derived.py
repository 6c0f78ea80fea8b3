"""Rows that follow from one event besides its aggregate's state, and columns that follow from a state.

The writer stores them; a replay remakes them.
"""

from collections.abc import Iterator
from typing import assert_never, get_args
from uuid import UUID

from cells.domain.account.account import Account
from cells.domain.auction.auction import Auction
from cells.domain.decision import State
from cells.domain.event import Movement
from cells.domain.events import AnyEvent, Deposited, Withdrawn
from cells.domain.moves.events import ReferencesCarried
from cells.domain.record import made
from cells.domain.sagas.saga import Saga
from cells.domain.values import Kind, reference_ref
from cells.store.ports import AccountEntryRow, ClearingEntryRow, ReferenceRow

# Kinds whose present state has a row of its own.
PROJECTED = frozenset({Kind.ACCOUNT, Kind.ASSET, Kind.AUCTION, Kind.SAGA})
CLEARING = "clearing/"

UsesReferences = Deposited | Withdrawn | ReferencesCarried
# Looked up by type: isinstance is slow for what is none of them.
USES_REFERENCES = frozenset[type](get_args(UsesReferences))


def state_columns(state: State) -> dict[str, object]:
    """The parts of a state that are queried: the other columns of its row, in the order of the queries `put_...`."""
    match state:
        case Account():
            return {"has_expiry": any(hold.expire_time_ms is not None for hold in state.holds.values())}
        case Auction():
            return {"status": state.state, "end_time_ms": state.end_time_ms}
        case Saga():
            return {
                "status": state.state,
                "started_ms": state.started_ms,
                "kind": state.kind,
                "paused": state.paused,
                "cells": " ".join(sorted(state.cells)),
            }
        case _:
            return {}


def account_entry(account_id: UUID, movement: Movement, after: Account, position: int) -> AccountEntryRow:
    balance = after.balance(movement.currency)
    return made(
        AccountEntryRow,
        (
            account_id,
            movement.currency,
            position,
            movement.available,
            movement.reserved,
            movement.pending,
            balance.available_minor,
            balance.reserved_minor,
            balance.pending_minor,
        ),
    )


def clearing_entries(event: AnyEvent, movement: Movement, position: int) -> Iterator[ClearingEntryRow]:
    """One for each posting to another cell's account; a change of 0 is no posting."""
    for account, change in movement.house:
        if change and account.startswith(CLEARING):
            clearing_id: UUID = event.clearing_id  # type: ignore[union-attr]
            yield ClearingEntryRow(clearing_id, position, account.removeprefix(CLEARING), movement.currency, change)


def reference_rows(event: UsesReferences, position: int) -> Iterator[ReferenceRow]:
    """One for each external reference that is used up."""
    match event:
        case Deposited():
            yield _reference_row("deposit", event.external_reference, position)
        case Withdrawn():
            yield _reference_row("withdrawal", event.external_reference, position)
        case ReferencesCarried():
            for kind, reference in event.references:
                yield _reference_row(kind, reference, position)
        case _:
            assert_never(event)


def _reference_row(kind: str, reference: str, position: int) -> ReferenceRow:
    return ReferenceRow(reference_ref(kind, reference).id, kind, reference, position)
