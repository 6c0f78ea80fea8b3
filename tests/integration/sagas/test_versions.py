"""A saga goes by the definition that it was started with, whatever has been added to its kind since.

For the test every kind of saga has a second version, with a leg more before its pivot and one after it.
"""

from uuid import UUID

import pytest
from hypothesis import given, settings

from cells.audit.reconcile.fold import Fold, StoredEvent
from cells.domain.events import EVENT_TYPES
from cells.domain.evolve import evolve
from cells.domain.record import replace
from cells.domain.sagas import saga as sagas
from cells.domain.sagas.definition import DEFINITIONS, LegSpec, SagaKind, version_of
from cells.domain.sagas.notice import NOTIFY
from cells.domain.sagas.saga import LegState, Saga, SagaState
from cells.domain.sagas.saga_events import SagaStarted
from cells.domain.sagas.saga_rules import action_of
from cells.domain.values import Kind
from cells.encoding import codec
from tests import golden
from tests.saga_world import AWAY, world
from tests.strategies import PATIENT, values
from tests.unit.saga_market import Market

EARLY, LATE = "checked-before", "filed-after"
AT = {
    SagaKind.SETTLEMENT: "auction_cell",
    SagaKind.REMOTE_BID: "bidder_cell",
    SagaKind.RELEASE: "bidder_cell",
    SagaKind.TRANSFER: "from_cell",
    SagaKind.NOTICE: "user_cell",
    SagaKind.MOVE: "from_cell",
}
SAGAS = {
    aggregate_id: events
    for aggregate_id, events in golden.read().streams().items()
    if events[0].event_type == "SAGA_STARTED"
}


def with_legs_more(kind: SagaKind) -> tuple[LegSpec, ...]:
    pivot = next(index for index, spec in enumerate(DEFINITIONS[kind, 1]) if spec.pivot)
    legs = DEFINITIONS[kind, 1]
    given, fixed = {"user_id": "seller_id"}, {"notice": "ASSET_SOLD"}
    early = LegSpec(leg=EARLY, at=AT[kind], effect=NOTIFY, given=given, fixed=fixed)
    late = replace(early, leg=LATE, best_effort=True)
    return (*legs[:pivot], early, *legs[pivot:], late)


@pytest.fixture
def _version_2(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in SagaKind:
        monkeypatch.setitem(DEFINITIONS, (kind, 2), with_legs_more(kind))


@pytest.fixture
def _latest_for_all(monkeypatch: pytest.MonkeyPatch, _version_2: None) -> None:
    """As it was: a kind has one definition, the one of now."""
    monkeypatch.setattr(sagas, "definition_of", lambda kind, _: DEFINITIONS[kind, 2])


def followed(saga: Saga | None, events: list[StoredEvent]) -> Saga:
    for stored in events:
        event = codec.decode_content(stored.event_type, stored.version, stored.payload)
        state = evolve(saga, event, stored.event_id)
        assert isinstance(state, Saga)
        saga = state
    assert saga is not None
    return saga


# --- the log of version 1 ---


def test_the_golden_log_has_every_kind_of_saga_and_event_in_it() -> None:
    """Some that went through, some that turned back, and hardly a step that is not there."""
    known = golden.read()
    ends = {(saga.kind, saga.state) for saga in (followed(None, events) for events in SAGAS.values())}
    assert {kind for kind, _ in ends} == set(SagaKind)
    assert {state for _, state in ends} == {SagaState.COMPLETED, SagaState.COMPENSATED}
    types = {event.event_type for event in known.events}
    assert set(EVENT_TYPES) >= types >= set(EVENT_TYPES) - {"ACCOUNT_FLOWS_STOPPED", "ACCOUNT_FLOWS_RESUMED"}


@pytest.mark.usefixtures("_version_2")
def test_the_log_of_version_1_comes_to_the_same_under_version_2() -> None:
    """Every aggregate, to the last byte of its state; read() has compared each leaf with its hash."""
    known, fold = golden.read(), Fold(cell=golden.CELL)
    page = fold.apply(known.events)
    assert not fold.halted
    assert not page.findings
    states = {key: (entry.kind, codec.encode_state(entry.state)) for key, entry in fold.states.items()}
    assert {key: states[key] for key in known.states} == known.states


@pytest.mark.usefixtures("_latest_for_all")
def test_without_versions_it_would_not_be_read() -> None:
    """Ablation: by the definition of now, each old saga that went through halts in the replay."""
    fold = Fold(cell=golden.CELL)
    fold.apply(golden.read().events)
    assert set(fold.halted) >= {key for key, events in SAGAS.items() if events[-1].event_type == "SAGA_COMPLETED"}


@pytest.mark.parametrize("saga_id", SAGAS, ids=str)
@pytest.mark.usefixtures("_version_2")
def test_a_saga_in_flight_at_any_step_goes_on_by_its_own_version(saga_id: UUID) -> None:
    """Taken up from its stored state after each of its events, it asks the same of the same, and ends the same."""
    events = SAGAS[saga_id]
    end = followed(None, events)
    for taken in range(1, len(events)):
        state = codec.decode_state(Kind.SAGA, codec.encode_state(followed(None, events[:taken])))
        assert isinstance(state, Saga)
        spec = state.current
        if spec is not None:
            assert spec.leg not in {EARLY, LATE}
            # Raises where its rules know no such leg.
            action_of(state, saga_id)
        assert followed(state, events[taken:]) == end


@pytest.mark.parametrize("steps", range(10))
@pytest.mark.parametrize("refuse", [None, "credit-in", "ownership"])
def test_rules_complete_what_was_begun_before(steps: int, refuse: str | None, request: pytest.FixtureRequest) -> None:
    """A settlement that was started and taken so far by version 1, and is gone on with when there is version 2."""
    market = Market()
    saga_id = market.won()
    for _ in range(steps):
        if not market.saga(saga_id)[1].ended:
            market.step(saga_id, refuse=refuse)
    request.getfixturevalue("_version_2")
    ended = market.run(saga_id, refuse=refuse)
    assert ended.state is (SagaState.COMPLETED if refuse is None else SagaState.COMPENSATED)
    assert ended.saga_version == 1
    assert len(ended.legs) == len(DEFINITIONS[SagaKind.SETTLEMENT, 1])


# --- the bytes ---


@given(values(SagaStarted))
def test_version_1_is_not_written(event: SagaStarted) -> None:
    """The leaves of what was stored before there were versions stay what they are; any other version is there."""
    first, second = replace(event, saga_version=1), replace(event, saga_version=2)
    assert "saga_version" not in codec.encode_event(first, [])
    assert ',"saga_version":2,' in codec.encode_event(second, [])
    for each in (first, second):
        assert codec.decode_event("SAGA_STARTED", 1, codec.encode_event(each, [])) == each


test_version_1_is_not_written = settings(PATIENT, max_examples=20)(test_version_1_is_not_written)


# --- version 2, and both side by side ---


async def test_cells_finish_version_1_and_begin_version_2(request: pytest.FixtureRequest) -> None:
    """A settlement that a cut cable has stopped half way ends by version 1; one that begins later has the legs more."""
    async with world() as here:
        old, new = await here.won(AWAY), await here.won(AWAY)
        here.cable.cut.add(AWAY)
        await here.close(old)
        await here.is_at(old, "pin")
        request.getfixturevalue("_version_2")
        assert version_of(SagaKind.SETTLEMENT) == 2
        here.cable.cut.clear()
        await here.close(new)
        await here.become(SagaState.COMPLETED, old, new)
        first, second = await here.saga(old), await here.saga(new)
        assert (first.saga_version, second.saga_version) == (1, 2)
        assert {leg.state for leg in (*first.legs, *second.legs)} == {LegState.DONE}
        assert len(second.legs) == len(first.legs) + 2
