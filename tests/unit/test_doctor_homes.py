"""The doctor's comparison of the router's directory with the cells, user by user."""

from collections.abc import Sequence
from uuid import UUID

import pytest

from server.cli.doctor import homes
from server.cli.doctor.findings import State
from server.cli.doctor.homes import Comparison, Home, HomesUnknown, Pages


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes, "AGAIN_S", 0)
    monkeypatch.setattr(homes, "PAGE", 3)


def user(number: int) -> UUID:
    return UUID(int=number)


def side(*said: Home) -> Pages:
    """Pages of some homes."""

    async def pages(after: UUID, size: int) -> Sequence[Home]:
        return [home for home in sorted(said) if home.user_id > after][:size]

    return pages


async def silent(_after: UUID, _size: int) -> Sequence[Home]:
    raise HomesUnknown("UNAVAILABLE: nobody is there")


async def found(directory: Pages, **cells: Pages) -> list[tuple[State, str]]:
    compared = Comparison(directory=directory, cells=cells)
    return [(each.state, each.detail) for each in await compared.findings()]


async def test_users_who_are_where_the_directory_has_them_are_in_order() -> None:
    """Over several pages, including users who are moving, and users whose account is not open yet."""
    listed = [Home(user(n), 1, "eu" if n % 2 else "us") for n in range(1, 20)]
    us = side(*(Home(user(n), 1, "") for n in range(2, 20, 2)))
    eu = side(*(Home(user(n), 1, "") for n in range(1, 19, 2)), Home(user(19), 1, "us"))
    unopened = Home(user(50), 1, "eu", is_open=False)
    assert await found(side(*listed, unopened), us=us, eu=eu) == [
        (State.OK, "20 users, each at home where the directory has them")
    ]


@pytest.mark.parametrize(
    ("listed", "us", "eu", "told"),
    [
        ("us", Home(user(7), 1, ""), Home(user(7), 2, ""), "at home in eu (epoch 2) and us (epoch 1) at once"),
        ("us", None, Home(user(7), 2, ""), "says us (epoch 1), and is at home in eu (epoch 2)"),
        ("us", None, None, "the directory says us (epoch 1), and no cell says so"),
        ("us", Home(user(7), 2, ""), None, "says us (epoch 1), and is at home in us (epoch 2)"),
        ("", Home(user(7), 1, ""), None, "has a home in us, and the directory does not know them"),
    ],
)
async def test_a_user_who_is_elsewhere_is_named(listed: str, us: Home | None, eu: Home | None, told: str) -> None:
    """Whichever side is wrong, and among others who are right."""
    others = [Home(user(n), 1, "us") for n in (1, 2, 3, 4, 8, 9)]
    directory = side(*others, *([Home(user(7), 1, listed)] if listed else []))
    us_says = side(*(home._replace(cell="") for home in others), *([us] if us else []))
    [(state, detail)] = await found(directory, us=us_says, eu=side(*([eu] if eu else [])))
    assert state is State.FAIL
    assert str(user(7)) in detail
    assert told in detail


async def test_a_cell_that_is_silent_is_not_proven() -> None:
    """Its users are reported neither as wrong nor as right."""
    directory = side(Home(user(1), 1, "us"), Home(user(2), 1, "eu"))
    [(state, detail)] = await found(directory, us=side(Home(user(1), 1, "")), eu=silent)
    assert (state, detail) == (
        State.FAIL,
        "not proven: eu does not say who is at home there (UNAVAILABLE: nobody is there)",
    )
    [(state, detail)] = await found(silent, us=side())
    assert state is State.FAIL
    assert "not proven" in detail


async def test_a_user_who_moves_meanwhile_is_no_finding() -> None:
    """The two sides are read at different moments, so differences are read again."""
    reads = 0

    async def moving(after: UUID, size: int) -> Sequence[Home]:
        nonlocal reads
        reads += 1
        return await side(Home(user(1), 1, "us") if reads == 1 else Home(user(1), 2, "eu"))(after, size)

    assert await found(moving, us=side(), eu=side(Home(user(1), 2, ""))) == [
        (State.OK, "1 users, each at home where the directory has them")
    ]


async def test_more_users_than_are_compared_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor's comparison is limited."""
    monkeypatch.setattr(homes, "USERS_MAX", 5)
    listed = [Home(user(n), 1, "us") for n in range(1, 20)]
    [(state, detail)] = await found(side(*listed), us=side(*(home._replace(cell="") for home in listed)))
    assert (state, detail) == (State.WARN, "the first 5 users were compared")
