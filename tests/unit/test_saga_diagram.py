"""The state diagram in the docs matches the transition table."""

from pathlib import Path

from cells.domain.sagas.saga import diagram

CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts.md"


def test_the_diagram_in_the_docs_is_drawn_from_the_table() -> None:
    """If the table has changed, paste the output of `diagram()`."""
    shown = CONCEPTS.read_text().partition("<!-- saga-states")[2].partition("```mermaid\n")[2].partition("\n```")[0]
    assert shown == diagram()
