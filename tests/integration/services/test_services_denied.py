"""Who may not, may not: every RPC of a cell, asked by every role that its policy leaves out."""

from collections import Counter
from typing import Any

import grpc
import grpc.aio

from server.process.policies import POLICIES
from server.shell.calls.statuses import refusal_in
from server.shell.identity.principal import Role
from tests.integration.services.bad_input import GOOD
from tests.integration.services_rig import METHODS, Rig, serving

OTHER = "0198c0de-0000-7000-8000-00000000000f"


async def reason(rig: Rig, path: str, principal: str) -> str:
    """Why a request with which nothing is wrong is denied."""
    method, request = METHODS[path], GOOD[path.rpartition("/")[2]]
    how: Any = {"metadata": (("cellbook-principal", principal),) if principal else (), "timeout": 10}
    channel: Any = rig.channel
    try:
        if method.server_streaming:
            await channel.unary_stream(path)(request.SerializeToString(), **how).read()
        else:
            await channel.unary_unary(path)(request.SerializeToString(), **how)
    except grpc.aio.AioRpcError as error:
        refused = refusal_in(error)
        return refused.reason if refused is not None else error.code().name
    return "OK"


async def test_who_may_not_changes_nothing() -> None:
    """By every role that the policy leaves out, by other users, by nobody: each is counted, and nothing is written."""
    async with serving() as rig:
        denied: Counter[str] = Counter()
        rig.guard.denied = lambda _, why: denied.update([why])
        before, outcomes = await rig.store.head(), len(rig.store.kept_outcomes)
        asked: Counter[str] = Counter()
        for path in METHODS:
            policy = POLICIES[path]
            cases = [(f"{role}/{OTHER}", "NOT_PERMITTED") for role in Role if role not in policy.roles]
            if policy.subject_field is not None:
                cases += [(f"user/{OTHER}", "NOT_YOUR_ACCOUNT"), ("delegate/x", "NOT_YOUR_ACCOUNT")]
            for principal, why in (*cases, ("", "PRINCIPAL_MISSING"), ("king/x", "PRINCIPAL_INVALID")):
                assert await reason(rig, path, principal) == why, (path, principal)
                asked[why] += 1
        assert denied == asked
        assert asked.total() > 5 * len(METHODS)
        assert (await rig.store.head()).position == before.position
        assert len(rig.store.kept_outcomes) == outcomes
