"""The router's policy table. An RPC that is missing here is always denied."""

from server.shell.calls.policy import ANYBODY, Policy, PolicyTable, allow
from server.shell.identity.principal import Role

_SERVICE = "/cellbook.v1.RouterService"
_OPERATIONS = ("RegisterCell", "SetCellWeight", "DrainCell", "MarkCellDown", "UndrainCell", "RemoveCell")
_MOVES = ("MoveUser", "EvacuateCell")

POLICIES: PolicyTable = {
    f"{_SERVICE}/RegisterUser": allow(Role.SERVICE, Role.OPERATOR),
    f"{_SERVICE}/ResolveUser": allow(
        Role.SERVICE, Role.PEER, Role.TREASURY, Role.AUDITOR, Role.OPERATOR, Role.SUPPORT, subject_field="user_id"
    ),
    f"{_SERVICE}/ListCells": Policy(roles=ANYBODY),
    f"{_SERVICE}/WatchTopology": Policy(roles=ANYBODY),
    f"{_SERVICE}/GetMove": allow(Role.SERVICE, Role.OPERATOR, subject_field="user_id"),
    f"{_SERVICE}/ListDirectory": allow(Role.AUDITOR, Role.OPERATOR),
    # A cell, for its own users only; an operator, to repair a restored directory.
    f"{_SERVICE}/RecordHome": allow(Role.PEER, Role.OPERATOR),
    **{f"{_SERVICE}/{operation}": allow(Role.OPERATOR) for operation in (*_OPERATIONS, *_MOVES)},
}
