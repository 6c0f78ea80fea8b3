"""What every store must do with what commands came to, a part of the conformance suite."""

from uuid import uuid4

import pytest

from cells.encoding import codec
from cells.store.ports import Poisoned
from tests.integration.rows import outcome_row
from tests.integration.store.store_conformance import Stores, append_all, same_json


class OutcomesConformance:
    async def test_outcomes_are_kept(self, stores: Stores) -> None:
        """As they were written; unknown ids are left out."""
        rows = [outcome_row(), outcome_row(outcome='{"refused":{"facts":{},"reason":"BID_TOO_LOW"}}')]
        await append_all(stores.one, outcomes=rows)
        found = await stores.other.outcomes([*(row.command_id for row in rows), uuid4()])
        assert {same_json(row) for row in found} == {same_json(row) for row in rows}

    async def test_two_senders_may_use_one_id(self, stores: Stores) -> None:
        """Each has its own outcome, written in one batch; twice the same sender's is a bug, which is not written."""
        one = outcome_row()
        other = one._replace(principal="user/somebody", user_id=uuid4(), in_stream=True)
        await append_all(stores.one, outcomes=[one, other])
        found = await stores.other.outcomes([one.command_id])
        assert {same_json(row) for row in found} == {same_json(one), same_json(other)}
        with pytest.raises(Poisoned):
            await append_all(stores.one, outcomes=[one])

    async def test_what_was_in_progress_ends(self, stores: Stores) -> None:
        """The outcome is replaced; fingerprint and time stay. An end of nothing is nothing."""
        begun = outcome_row(outcome='{"in_progress":{}}', saga_id=uuid4())
        ended = begun._replace(outcome='{"accepted":{}}', position=9, hlc_logical=4, fingerprint=b"")
        stranger = outcome_row()
        # Under the same id: one that waits for another saga, one that waits for none.
        others = [begun._replace(principal="user/a", saga_id=uuid4()), stranger._replace(command_id=begun.command_id)]
        others[1] = others[1]._replace(principal="user/b")
        await append_all(stores.one, outcomes=[begun, *others])
        await append_all(stores.one, ended_outcomes=[ended, stranger])
        found = await stores.one.outcomes([begun.command_id, stranger.command_id])
        expected = ended._replace(fingerprint=begun.fingerprint)
        assert {same_json(row) for row in found} == {same_json(row) for row in (expected, *others)}

    async def test_what_was_in_progress_before_sagas_stood_by_it_ends(self, stores: Stores) -> None:
        """It is the only one under its id."""
        begun = outcome_row(outcome='{"in_progress":{}}', principal="")
        await append_all(stores.one, outcomes=[begun])
        await append_all(stores.one, ended_outcomes=[begun._replace(outcome='{"accepted":{}}', saga_id=uuid4())])
        assert [codec.recanonical(row.outcome) for row in await stores.one.outcomes([begun.command_id])] == [
            '{"accepted":{}}'
        ]
