"""Requests with many items: each item is the same command as if it were sent alone."""

from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from cells.domain.commands import Command
from cells.domain.refusals import Refused, refusal
from cells.requests import CommandRequest
from server.shell.calls.call import Call
from server.shell.fields.bounds import (
    BATCH,
    items_in,
)
from server.wire.common import AuthorityOf, Mutating, Sender, parse_request, parse_sender, senders_own

Item = TypeVar("Item", bound=Mutating)
# Turns an item into its command and the user on whose behalf it is.
Reader = Callable[[Item], tuple[Command, UUID]]


def parse_count(items: Sequence[Item]) -> int:
    items_in(items, "items", BATCH)
    return len(items)


def parse_requests(
    items: Sequence[Item],
    read: Reader[Item],
    *,
    call: Call,
    now_s: float,
    authority_of: AuthorityOf = senders_own,
) -> list[CommandRequest | Refused]:
    """A command or a refusal for each item; `call.method` is the RPC for a single one."""
    sender = parse_sender(call, now_s)
    return [_parse_request(item, read, index, sender, authority_of) for index, item in enumerate(items)]


def _parse_request(
    item: Item, read: Reader[Item], index: int, sender: Sender, authority_of: AuthorityOf
) -> CommandRequest | Refused:
    try:
        command, user_id = read(item)
        return parse_request(item, command, user_id=user_id, sender=sender, authority_of=authority_of)
    except Refused as refused:
        return of_item(refused, index)


def of_item(refused: Refused, index: int) -> Refused:
    """The refusal with the field's path from the whole request: items[3].amount."""
    field = refused.facts.get("field")
    if field is None:
        return refused
    return refusal(refused.reason, {**refused.facts, "field": f"items[{index}].{field}"})
