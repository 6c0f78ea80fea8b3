"""ContactService: people's names and addresses. A refusal never repeats them."""

import re
import unicodedata
from uuid import UUID

from cellbook.v1 import contact_pb2
from cells.domain.refusals import FieldInvalid
from server.contacts.vault import Contact
from server.wire.common import text_in

NAME_CHARS_MAX = 200
# RFC 5321, section 4.5.3.1.3: a path of 256 octets with its brackets.
EMAIL_CHARS_MAX = 254
HIDDEN = "not shown"
# One address of dots and atoms (RFC 5321, section 4.1.2) at a domain: no comments, no quotes, nothing that could end a
# line of the protocol or begin another header.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(rf"(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
# Control characters and ends of lines.
_NOT_IN_NAMES = {"Cc", "Zl", "Zp"}


def contact_in(request: contact_pb2.SetContactRequest) -> Contact:
    """Raises FieldInvalid, which says nothing of what was given."""
    name = _hidden(request.name, "name", NAME_CHARS_MAX)
    email = _hidden(request.email, "email", EMAIL_CHARS_MAX)
    if _EMAIL.fullmatch(email) is None:
        raise FieldInvalid(field="email", problem="must be one address, as in ann@example.org", value=HIDDEN)
    return Contact(name=name, email=email)


def contact_out(user_id: UUID, contact: Contact) -> contact_pb2.GetContactResponse:
    return contact_pb2.GetContactResponse(user_id=str(user_id), name=contact.name, email=contact.email)


def _hidden(text: str, field: str, most: int) -> str:
    try:
        checked = text_in(text, field, most=most)
    except FieldInvalid as invalid:
        raise FieldInvalid(field=field, problem=str(invalid.facts["problem"]), value=HIDDEN) from None
    if not checked.strip() or any(unicodedata.category(each) in _NOT_IN_NAMES for each in checked):
        raise FieldInvalid(field=field, problem=f"must be 1 to {most} characters on one line", value=HIDDEN)
    return checked
