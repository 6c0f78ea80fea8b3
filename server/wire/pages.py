"""Pages of lists: their size, and the tokens that say where the next one begins."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from cells.uuids import uuid_from
from server.shell.fields.bounds import invalid

P = TypeVar("P")
T = TypeVar("T")


def cut(rows: Sequence[T], size: int) -> tuple[Sequence[T], T | None]:
    """One page of at most `size` rows, and its last row if a further one says that there is a next page."""
    return rows[:size], rows[size - 1] if len(rows) > size else None


class Tokens(NamedTuple, Generic[P]):
    """The tokens of one list: the bytes of a place in it."""

    # Raises ValueError for bytes that are no place.
    read: Callable[[bytes], P]
    write: Callable[[P], bytes]
    of: str = "this list"

    def parse(self, token: str) -> P | None:
        """None: the list begins."""
        if not token:
            return None
        try:
            place = self.read(urlsafe_b64decode(token.encode()))
        except ValueError:
            raise invalid("page_token", f"is not a token of {self.of}", token) from None
        # The decoder ignores characters that are not base64.
        if self.token(place) != token:
            raise invalid("page_token", f"is not a token of {self.of}", token)
        return place

    def token(self, place: P | None) -> str:
        """The token of the page after that place; empty: there is none."""
        return urlsafe_b64encode(self.write(place)).decode() if place is not None else ""


BY_ID = Tokens[UUID](read=uuid_from, write=lambda place: place.bytes)
