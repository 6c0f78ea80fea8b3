"""Vector clocks: their metadata form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.domain.refusals import FieldInvalid
from cells.domain.time.vector import (
    CELLS_MAX,
    POSITION_MAX,
    format_vector,
    parse_vector,
)


@pytest.mark.parametrize(
    ("text", "vector"),
    [
        ("", {}),
        ("us-east=12,eu-west=7", {"us-east": 12, "eu-west": 7}),
        ("a=0", {"a": 0}),
        (f"a={POSITION_MAX}", {"a": POSITION_MAX}),
    ],
)
def test_reading(text: str, vector: dict[str, int]) -> None:
    """A peer's text is read as intended."""
    assert parse_vector(text, field="f") == vector


@pytest.mark.parametrize(
    "text",
    [
        "a", "a=", "=1", "a=1,", ",a=1", "a=1,,b=2", "a=-1", "a=+1", "a=01", "a=1.0", "a=1_0", "a= 1", " a=1",
        "A=1", "a_b=1", "a=1;b=2", "a=1,a=2", f"a={POSITION_MAX + 1}", "a=" + "9" * 40, "ü=1", "a=٣", "a=1\n",
        f"{'x' * 33}=1", ",".join(f"c{n}=1" for n in range(CELLS_MAX + 1)), "a=1," * 100_000,
    ],
)  # fmt: skip
def test_malformed_vectors_are_refused(text: str) -> None:
    """An invalid vector gives a refusal that names the field and shows at most one line of it."""
    with pytest.raises(FieldInvalid) as refused:
        parse_vector(text, field="cellbook-vector")
    assert refused.value.facts["field"] == "cellbook-vector"
    assert len(refused.value.message) < 200


def test_the_largest_vector_is_read() -> None:
    """The bounds are exact: 64 cells with names of 32 letters at the last position fit."""
    largest = {f"{n:032d}": POSITION_MAX for n in range(CELLS_MAX)}
    assert parse_vector(format_vector(largest), field="f") == largest


VECTORS = st.dictionaries(st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True), st.integers(0, POSITION_MAX), max_size=8)


@given(VECTORS)
def test_text_comes_back(vector: dict[str, int]) -> None:
    """Format and parse are inverse, and the form does not depend on the order of insertion."""
    text = format_vector(vector)
    assert parse_vector(text, field="f") == vector
    assert format_vector(dict(reversed(vector.items()))) == text
