"""ContactService."""

import asyncio
from uuid import UUID

from cellbook.v1 import contact_pb2 as pb
from cellbook.v1.contact_pb2_grpc import ContactServiceServicer
from cells.cell import Cell
from cells.domain.moves.refusals import UserMoving
from cells.domain.refusals import WrongCell
from server.contacts.refusals import ContactsNotKept
from server.contacts.vault import Vault
from server.mail.outbox import Outbox
from server.services.audit_parts import Context, note_access, record_look
from server.shell.calls.call import current_call
from server.shell.fields.bounds import CODE, text_in
from server.shell.fields.parse import parse_uuid
from server.wire import contacts as wire

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
        contact = wire.parse_contact(request, current_call().principal.role)
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
        reason, vault = wire.parse_reason(request, current_call().principal.role), self._vault
        await self._cell.account(user_id)
        if reason:
            # Before the answer: nobody sees a contact whose look is not in the log. Only the leader can write it there.
            await record_look(self._cell, user_id, reason)
        else:
            note_access(self._cell.accesses, user_id)
        return wire.contact_to_proto(user_id, await vault.get(user_id))

    async def EraseContact(self, request: pb.EraseContactRequest, _context: Context) -> pb.EraseContactResponse:
        user_id, vault = parse_uuid(request.user_id, "user_id"), self._vault
        await self._cell.account(user_id)
        await vault.erase(user_id)
        # If the user left meanwhile, the contact may have been handed over before it was erased here.
        await self._check_still_here(user_id, vault)
        return pb.EraseContactResponse()
