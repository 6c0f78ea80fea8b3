"""ContactService."""

from typing import Any

import grpc.aio

from cellbook.v1 import contact_pb2 as pb
from cellbook.v1.contact_pb2_grpc import ContactServiceServicer
from cells.cell import Cell
from server.contacts.refusals import ContactsNotKept
from server.contacts.vault import Vault
from server.wire import contacts as wire
from server.wire.common import uuid_in

Context = grpc.aio.ServicerContext[Any, Any]


class ContactServicer(ContactServiceServicer):
    """Only of users of this cell; without a vault it refuses all."""

    def __init__(self, cell: Cell, vault: Vault | None) -> None:
        self._cell = cell
        self._kept = vault

    @property
    def _vault(self) -> Vault:
        if self._kept is None:
            raise ContactsNotKept(cell=self._cell.name)
        return self._kept

    async def SetContact(self, request: pb.SetContactRequest, _context: Context) -> pb.SetContactResponse:
        user_id, contact, vault = uuid_in(request.user_id, "user_id"), wire.contact_in(request), self._vault
        await self._cell.account(user_id)
        await vault.put(user_id, contact)
        return pb.SetContactResponse()

    async def GetContact(self, request: pb.GetContactRequest, _context: Context) -> pb.GetContactResponse:
        user_id, vault = uuid_in(request.user_id, "user_id"), self._vault
        await self._cell.account(user_id)
        return wire.contact_out(user_id, await vault.get(user_id))

    async def EraseContact(self, request: pb.EraseContactRequest, _context: Context) -> pb.EraseContactResponse:
        user_id, vault = uuid_in(request.user_id, "user_id"), self._vault
        await self._cell.account(user_id)
        await vault.erase(user_id)
        return pb.EraseContactResponse()
