"""Checks of the balances of several cells, and counts of double effects: what they apply, and what they detect."""

import json
from collections import defaultdict
from typing import TYPE_CHECKING, cast
from uuid import uuid4

from cellbook.v1 import event_pb2
from cellbook.v1.types_pb2 import Posting
from lab.chaos.scenario import Bookkeeper
from lab.chaos.verdict import double_effects

if TYPE_CHECKING:
    from lab.market import Market

HERE, THERE = "us-east", "eu-west"


class Logs:
    """Replaces a market; its cells write the given events."""

    def __init__(self) -> None:
        self.cells = {HERE: HERE, THERE: THERE}
        self.written: dict[str, list[event_pb2.Event]] = defaultdict(list)

    async def log(self, cell: str, from_position: int) -> list[event_pb2.Event]:
        return self.written[cell][from_position - 1 :]

    def write(
        self,
        cell: str,
        *postings: tuple[str, int],
        knows: int = 0,
        event_type: str = "MOVED",
        payload: dict[str, str] | None = None,
        leg: dict[str, str] | None = None,
    ) -> None:
        """`knows`: the highest position of the other cell's log that the event may depend on."""
        position = len(self.written[cell]) + 1
        other = THERE if cell == HERE else HERE
        self.written[cell].append(
            event_pb2.Event(
                cell=cell,
                position=position,
                event_id=str(uuid4()),
                event_type=event_type,
                vector_clock={cell: position, other: knows},
                payload_json=json.dumps(payload or {}),
                metadata_json=json.dumps({"leg": leg} if leg else {}),
                postings=[
                    Posting(account=account, currency="USD", amount_minor=amount) for account, amount in postings
                ],
            )
        )

    def deposit(self, cell: str, amount: int) -> None:
        payload = {"currency": "USD", "amount_minor": str(amount)}
        moves = (("external", -amount), ("users/a/available", amount))
        self.write(cell, *moves, event_type="DEPOSITED", payload=payload)

    def send(self, cell: str, to: str, amount: int) -> None:
        moves = (("users/a/available", -amount), (f"clearing/{to}", amount))
        self.write(cell, *moves, payload={"clearing_id": "one"})

    def receive(self, cell: str, sender: str, amount: int, knows: int) -> None:
        moves = ((f"clearing/{sender}", -amount), ("users/b/available", amount))
        self.write(cell, *moves, knows=knows, payload={"clearing_id": "one"})

    def keeper(self) -> Bookkeeper:
        return Bookkeeper(cast("Market", self))


async def test_money_between_cells_is_counted_as_in_transit() -> None:
    """Sent and not received, it is in neither cell and not lost either; once received, nothing is in transit."""
    logs = Logs()
    logs.deposit(HERE, 100)
    logs.send(HERE, THERE, 40)
    keeper = logs.keeper()
    observation = await keeper.observe()
    assert (observation.movements, observation.in_transit_minor, observation.wrong) == (1, 40, ())
    logs.receive(THERE, HERE, 40, knows=2)
    observation = await keeper.observe()
    assert (observation.movements, observation.in_transit_minor, observation.wrong) == (0, 0, ())


async def test_what_follows_from_what_is_not_seen_yet_waits() -> None:
    """An answer is not applied before its question, whichever cell was read first."""
    logs = Logs()
    logs.deposit(HERE, 100)
    logs.receive(THERE, HERE, 40, knows=2)
    keeper = logs.keeper()
    observation = await keeper.observe()
    assert observation.wrong == ()
    assert (len(keeper.logs[HERE]), len(keeper.logs[THERE])) == (1, 0)
    logs.send(HERE, THERE, 40)
    observation = await keeper.observe()
    assert observation.wrong == ()
    assert (len(keeper.logs[HERE]), len(keeper.logs[THERE])) == (2, 1)


async def test_money_that_was_never_sent_is_caught() -> None:
    """Money without a source is detected at once, in transit or not."""
    logs = Logs()
    logs.receive(THERE, HERE, 40, knows=0)
    assert any("never sent" in line for line in (await logs.keeper().observe()).wrong)


async def test_money_that_vanishes_is_caught() -> None:
    """A posting without a counterpart violates conservation."""
    logs = Logs()
    logs.deposit(HERE, 100)
    logs.write(HERE, ("users/a/available", -1))
    keeper = logs.keeper()
    await keeper.observe()
    assert len(keeper.wrong) == 2
    assert keeper.wrong[0].startswith("look 1: us-east")


def test_an_effect_that_is_there_twice_is_caught() -> None:
    """The same leg in the same direction is one effect, wherever it happened; its compensation is another."""
    leg = {"saga_id": "s", "leg": "pin", "generation": "1", "direction": "action"}
    logs = Logs()
    logs.write(HERE, leg=leg)
    logs.write(HERE, leg={**leg, "direction": "compensation"})
    assert double_effects(logs.written) == []
    logs.write(THERE, leg=leg)
    assert double_effects(logs.written) == ["s pin 1 action: 2 times"]
