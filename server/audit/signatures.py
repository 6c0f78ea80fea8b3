"""Commands signed by their callers: docs/clients.md explains how, docs/log-format.md defines the signed text."""

import json
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from cells.audit.export.lines import text64
from cells.audit.verify.callers import METHODS, Callers, callers_in, command_text, wrong_with
from cells.domain.commands import Command, Deposit, Withdraw
from server.audit.keys import read_setting
from server.process.settings import ServerSettings
from server.shell.fields.bounds import SIGNATURE, bytes_in
from server.shell.fields.parse import parse_uuid
from server.shell.identity.denials import SignatureInvalid, SignatureMissing
from server.shell.identity.principal import Principal, authority_text
from server.wire.requests import Mutating

_METHODS = {Deposit: METHODS["DEPOSITED"], Withdraw: METHODS["WITHDRAWN"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerSignatures:
    """`required` names the methods whose callers must sign: Deposit, Withdraw."""

    callers: Callers = field(default_factory=Callers)
    required: AbstractSet[str] = frozenset()

    @property
    def expected(self) -> bool:
        """Whether any key is configured."""
        return bool(self.callers.keys)

    def authority(self, principal: Principal, message: Mutating, command: Command) -> str:
        """The principal's authority, with the signature of the command if there is one.

        Raises:
            SignatureMissing, SignatureInvalid, FieldInvalid.
        """
        if not isinstance(command, Deposit | Withdraw):
            return principal.authority
        method, signature = _METHODS[type(command)], getattr(message, "signature", b"")
        if not signature:
            if method.rpartition("/")[2] in self.required:
                raise SignatureMissing(principal=str(principal), method=method)
            return principal.authority
        bytes_in(signature, "signature", SIGNATURE)
        content = {
            "amount_minor": str(command.amount.amount_minor),
            "currency": command.amount.currency,
            "external_reference": command.external_reference,
        }
        text = command_text(method, str(parse_uuid(message.command_id, "command_id")), str(command.user_id), content)
        wrong = wrong_with(signature, text, self.callers.keys_of(str(principal)))
        if wrong:
            raise SignatureInvalid(principal=str(principal), problem=wrong)
        return authority_text(**json.loads(principal.authority or "{}"), signature=text64(signature))


NO_SIGNATURES = CallerSignatures()


def signatures_of(settings: ServerSettings) -> CallerSignatures:
    """Raises CannotServe."""
    return caller_signatures(settings.caller_keys_file, frozenset(settings.signed_methods))


def caller_signatures(file: Path | None, required: AbstractSet[str]) -> CallerSignatures:
    """Raises CannotServe."""
    if file is None:
        return CallerSignatures()
    callers = read_setting(file, callers_in, "caller_keys_file")
    return CallerSignatures(callers=callers, required=required)
