"""An audit's samples follow from a seed and from the signed root."""

from cells.audit.verify import sample
from cells.audit.verify.note import Checkpoint


def test_a_draw_is_the_same_for_everybody_and_reaches_everything() -> None:
    """Only the seed and the root decide; another of either gives another sample; all numbers are equally likely."""
    first = Checkpoint("cellbook/eu-west", 1_000, b"r" * 32)
    drawn = sample.positions("7", first, 5)
    assert drawn == sample.positions("7", first, 5) == [90, 151, 461, 579, 781]
    assert drawn != sample.positions("8", first, 5)
    assert drawn != sample.positions("7", first._replace(root=b"s" * 32), 5)
    assert sample.positions("7", first, 2_000) == [*range(1, 1_001)]
    counts = [0] * 10
    for seed in range(400):
        for position in sample.positions(str(seed), first._replace(size=10), 3):
            counts[position - 1] += 1
    assert 80 < min(counts) <= max(counts) < 160
