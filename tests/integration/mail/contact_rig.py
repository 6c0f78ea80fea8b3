"""ContactService over a real socket, of a cell with a user here and one elsewhere."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from uuid import UUID

import grpc.aio

from cellbook.v1 import contact_pb2
from cellbook.v1.contact_pb2_grpc import ContactServiceStub, add_ContactServiceServicer_to_server
from server.contacts.vault import Contact, Vault
from server.mail.outbox import Outbox
from server.process.policies import POLICIES
from server.services.contacts import ContactServicer
from server.shell.calls.guard import CallGuard
from tests.doubles.store import MemoryStore
from tests.integration.services_rig import HERE, THERE
from tests.local_cells import DirectPeers, FixedDirectory, LocalCell, build_cell, leading, open_user

if TYPE_CHECKING:
    from cellbook.v1.contact_pb2_grpc import ContactServiceAsyncStub

ANN = Contact(name="Ann Ómalley", email="ann@people.test")


class Served:
    def __init__(
        self, stub: "ContactServiceAsyncStub", cell: LocalCell, directory: FixedDirectory, ann: UUID, carl: UUID
    ) -> None:
        self.stub, self.cell, self.directory, self.ann, self.carl = stub, cell, directory, ann, carl

    def set(self, *, name: str = ANN.name, email: str = ANN.email) -> contact_pb2.SetContactRequest:
        return contact_pb2.SetContactRequest(user_id=str(self.ann), name=name, email=email)


async def serve(vault: Vault | None, confirmations: Outbox | None = None) -> AsyncIterator[Served]:
    directory = FixedDirectory()
    cell = build_cell(HERE, MemoryStore(HERE), peers=DirectPeers(), directory=directory)
    there = build_cell(THERE, MemoryStore(THERE), peers=DirectPeers(), directory=directory)
    server = grpc.aio.server(interceptors=[CallGuard(POLICIES)])
    add_ContactServiceServicer_to_server(ContactServicer(cell, vault, confirmations), server)
    port = server.add_insecure_port("127.0.0.1:0")
    async with leading(cell, there), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await server.start()
        ann, carl = await open_user(cell, 0, directory), await open_user(there, 0, directory)
        yield Served(ContactServiceStub(channel), cell, directory, ann, carl)
        await server.stop(1.0)
