"""The settlements brought in flight: all of them need the link, from whichever leg they are released."""

from collections import Counter

from cells.domain.sagas.settlement import SETTLEMENT_LEGS
from lab.chaos.links import ENDS
from lab.chaos.settlements import DOOMED, LEGS, TOTAL, Shape, shapes


def stop(shape: Shape) -> str:
    """The first leg that needs the link, counted from where it is held."""
    far = next(end for end in ENDS if end != shape.auction_cell)
    legs = SETTLEMENT_LEGS[LEGS.index(shape.leg) :]
    return next((spec.leg for spec in legs if getattr(shape, spec.at) == far), "")


def test_there_are_forty_seven_spread_over_every_leg() -> None:
    """Each leg has some, three more have a deadline, and both ends of the link orchestrate."""
    every = shapes()
    assert len(every) == TOTAL == 47
    assert set(Counter(shape.leg for shape in every)) == set(LEGS)
    assert sum(shape.doomed for shape in every) == DOOMED == 3
    assert {shape.auction_cell for shape in every} == set(ENDS)


def test_none_can_end_without_the_link() -> None:
    """Wherever a settlement is released, a leg is left that only the other end can take."""
    assert all(stop(shape) for shape in shapes())


def test_the_doomed_are_stopped_before_their_pivot() -> None:
    """Only until then does a deadline compensate; one has paid nothing yet, others have money in transit."""
    stops = [stop(shape) for shape in shapes() if shape.doomed]
    pivot = next(spec.leg for spec in SETTLEMENT_LEGS if spec.pivot)
    assert all(LEGS.index(leg) < LEGS.index(pivot) for leg in stops)
    assert Counter(stops) == {"pin": 1, "credit-in": 2}
