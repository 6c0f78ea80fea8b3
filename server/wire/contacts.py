"""ContactService: people's names and addresses. A refusal never repeats them."""

import re
import unicodedata
from uuid import UUID

from cellbook.v1 import contact_pb2
from cells.domain.refusals import FieldInvalid
from server.contacts.vault import Contact
from server.shell.fields.bounds import (
    EMAIL,
    NOTE,
    PERSON_NAME,
    Text,
    invalid,
    text_in,
)
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


def parse_contact(request: contact_pb2.SetContactRequest, role: Role) -> Contact:
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


def parse_reason(request: contact_pb2.GetContactRequest, role: Role) -> str:
    """Why the caller looks; empty: not said. Raises FieldInvalid."""
    reason = text_in(request.reason, "reason", NOTE).strip()
    if role is Role.SUPPORT and not reason:
        raise invalid("reason", "is missing: say why you look, for the log; a ticket's number is best")
    return reason


def contact_to_proto(user_id: UUID, contact: Contact) -> contact_pb2.GetContactResponse:
    return to_proto(contact_pb2.GetContactResponse, contact, user_id=user_id, email_proven=contact.proven)


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
