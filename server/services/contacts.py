"""ContactService: people's names and addresses. A refusal never repeats them."""

import asyncio
import re
import unicodedata
from uuid import UUID

from cellbook.v1 import contact_pb2 as pb
from cellbook.v1.contact_pb2_grpc import ContactServiceServicer
from cells.cell import Cell
from cells.domain.moves.refusals import UserMoving
from cells.domain.refusals import FieldInvalid, WrongCell
from server.contacts.refusals import ContactsNotKept
from server.contacts.vault import Contact, Vault
from server.mail.outbox import Outbox
from server.services.audit_parts import Context, note_access, record_look
from server.shell.calls.call import current_call
from server.shell.fields.bounds import CODE, EMAIL, NOTE, PERSON_NAME, Text, invalid, text_in
from server.shell.fields.parse import parse_uuid
from server.shell.identity.principal import Role
from server.wire.convert import to_proto

HIDDEN = "not shown"
# One address of dots and atoms (RFC 5321, section 4.1.2) at a domain: no comments, no quotes, nothing that could end a
# protocol line or begin another header.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(rf"(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
# The start of an encoded word (RFC 2047), which an address must not contain.
_ENCODED = "=?"
# Allowed in names besides letters and their marks; they make no link, address, markup or telephone number.
_IN_NAMES = frozenset(" '\u2019\u02bc.,-\u2010\u00b7()\u200c\u200d")
_DIGITS_IN_NAMES_MAX = 3
_DOMAIN = re.compile(r"[^\W\d_]{2,}\.[^\W\d_]{2,}")
# A move takes some ten milliseconds; SetContact waits this long for its end.
POLL_S = 0.05
LOOKS_MAX = 40


class ContactServicer(ContactServiceServicer):
    """Only for users of this cell; without a vault it refuses every call."""

    def __init__(self, cell: Cell, vault: Vault | None, confirmations: Outbox | None = None) -> None:
        """Without `confirmations` no mail is sent, and no address needs confirmation."""
        self._cell = cell
        self._kept = vault
        self._confirmations = confirmations

    @property
    def _vault(self) -> Vault:
        if self._kept is None:
            raise ContactsNotKept(cell=self._cell.name)
        return self._kept

    async def SetContact(self, request: pb.SetContactRequest, _context: Context) -> pb.SetContactResponse:
        user_id = parse_uuid(request.user_id, "user_id")
        contact = _parse_contact(request, current_call().principal.role)
        vault = self._vault
        await self._cell.account(user_id)
        proven = await vault.put(user_id, contact, self._confirmations)
        if not proven and self._confirmations is not None:
            self._confirmations.news.set()
        await self._check_still_here(user_id, vault)
        return pb.SetContactResponse(email_proven=proven)

    async def ConfirmContact(self, request: pb.ConfirmContactRequest, _context: Context) -> pb.ConfirmContactResponse:
        user_id, code = parse_uuid(request.user_id, "user_id"), text_in(request.code, "code", CODE)
        vault = self._vault
        await self._cell.account(user_id)
        await vault.prove(user_id, code.upper())
        return pb.ConfirmContactResponse()

    async def _check_still_here(self, user_id: UUID, vault: Vault) -> None:
        """A user who left meanwhile may have been forgotten before this write. Raises WrongCell, UserMoving."""
        for _ in range(LOOKS_MAX):
            try:
                await self._cell.account(user_id)
            except WrongCell:
                await vault.forget(user_id)
                raise
            except UserMoving as error:
                moving = error
            else:
                return
            await asyncio.sleep(POLL_S)
        raise moving

    async def GetContact(self, request: pb.GetContactRequest, _context: Context) -> pb.GetContactResponse:
        user_id = parse_uuid(request.user_id, "user_id")
        reason, vault = _parse_reason(request, current_call().principal.role), self._vault
        await self._cell.account(user_id)
        if reason:
            # Before the answer: nobody sees a contact whose look is not in the log. Only the leader can write it there.
            await record_look(self._cell, user_id, reason)
        else:
            note_access(self._cell.accesses, user_id)
        contact = await vault.get(user_id)
        return to_proto(pb.GetContactResponse, contact, user_id=user_id, email_proven=contact.proven)

    async def EraseContact(self, request: pb.EraseContactRequest, _context: Context) -> pb.EraseContactResponse:
        user_id, vault = parse_uuid(request.user_id, "user_id"), self._vault
        await self._cell.account(user_id)
        await vault.erase(user_id)
        # If the user left meanwhile, the contact may have been handed over before it was erased here.
        await self._check_still_here(user_id, vault)
        return pb.EraseContactResponse()


# --- on the wire -----------------------------------------------------------------------------------------------------


def _parse_contact(request: pb.SetContactRequest, role: Role) -> Contact:
    """Raises FieldInvalid, which does not repeat the input."""
    if request.email_proven and role is not Role.SERVICE:
        raise invalid("email_proven", "is for services to say: leave it out, and confirm the address by its code")
    name = _hidden(request.name, "name", PERSON_NAME)
    if not _is_name(name):
        problem = "must be a person's name: letters, blanks and ' . , - ( ), at most 3 digits, and a blank after a dot"
        raise FieldInvalid(field="name", problem=problem, value=HIDDEN)
    email = _hidden(request.email, "email", EMAIL)
    if _EMAIL.fullmatch(email) is None or _ENCODED in email:
        raise FieldInvalid(field="email", problem="must be one address, as in ann@example.org", value=HIDDEN)
    return Contact(name=name, email=email, proven=request.email_proven)


def _parse_reason(request: pb.GetContactRequest, role: Role) -> str:
    """Why the caller looks; empty: not said. Raises FieldInvalid."""
    reason = text_in(request.reason, "reason", NOTE).strip()
    if role is Role.SUPPORT and not reason:
        raise invalid("reason", "is missing: say why you look, for the log; a ticket's number is best")
    return reason


def _is_name(text: str) -> bool:
    """The name is written into mail, so text that could mislead a reader is not accepted as a name."""
    letters = all(each.isdigit() or each in _IN_NAMES or unicodedata.category(each)[0] in "LM" for each in text)
    digits_count = sum(each.isdigit() for each in text)
    return letters and digits_count <= _DIGITS_IN_NAMES_MAX and _DOMAIN.search(text) is None and text == text.strip()


def _hidden(text: str, field: str, bound: Text) -> str:
    try:
        return text_in(text, field, bound)
    except FieldInvalid as invalid:
        raise FieldInvalid(field=field, problem=str(invalid.facts["problem"]), value=HIDDEN) from None
