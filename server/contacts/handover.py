"""Hands a person's data over during a move: from vault to vault, sealed for the requesting cell alone.

X25519 (RFC 7748) and HKDF (RFC 5869) give both cells a shared key, and AES-256-GCM seals with it; each call generates
new key pairs. So no network, log or capture of either process's calls shows the data in the clear, and the two cells
need no key in common.
"""

import json
from dataclasses import dataclass
from uuid import UUID

import grpc.aio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cellbook.v1 import move_pb2, move_pb2_grpc
from cells.domain.refusals import Refused, Unavailable
from cells.store.ports import PeerUnknown
from server.contacts.refusals import ContactNotFound, ContactsNotKept
from server.contacts.seals import KEY_BYTES, Seal, SealBroken
from server.contacts.vault import Contact, Vault
from server.peers import GrpcPeers
from server.shell.calls.statuses import refusal_in

FIELD = "handover"
TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Implements cells/bundle.Contacts; `vault` None: this cell keeps no contacts."""

    cell: str
    vault: Vault | None
    peers: GrpcPeers

    async def given(self, user_id: UUID, public_key: bytes) -> move_pb2.HandOverContactResponse:
        """`public_key` is an X25519 key. Raises as the vault does."""
        if self.vault is None:
            return move_pb2.HandOverContactResponse()
        if await self.vault.is_erased(user_id):
            return move_pb2.HandOverContactResponse(erased=True)
        try:
            contact = await self.vault.get(user_id)
        except ContactNotFound:
            return move_pb2.HandOverContactResponse()
        own = X25519PrivateKey.generate()
        seal = _shared(own, public_key)
        content = json.dumps({"name": contact.name, "email": contact.email, "proven": contact.proven}).encode()
        return move_pb2.HandOverContactResponse(
            public_key=own.public_key().public_bytes_raw(), sealed=seal.seal(content, user_id, FIELD)
        )

    async def fetch(self, user_id: UUID, from_cell: str, saga_id: UUID) -> None:
        """Raises ContactsNotKept if this cell keeps no contacts: then the user does not move here."""
        own = X25519PrivateKey.generate()
        answer = await self._asked(user_id, from_cell, saga_id, own.public_key().public_bytes_raw())
        if not (answer.erased or answer.sealed):
            return
        if self.vault is None:
            raise ContactsNotKept(cell=self.cell)
        if answer.erased:
            await self.vault.erase(user_id)
            return
        try:
            content = json.loads(_shared(own, answer.public_key).open(answer.sealed, user_id, FIELD))
        except (SealBroken, ValueError) as error:
            raise Unavailable(problem=f"the user's contact from {from_cell} cannot be opened") from error
        # A cell of an older version does not send this field.
        proven = content.get("proven") is True
        await self.vault.put(user_id, Contact(name=content["name"], email=content["email"], proven=proven))

    async def erase(self, user_id: UUID) -> None:
        """A cell that keeps no contacts has nothing to erase. Raises Unavailable."""
        if self.vault is not None:
            await self.vault.erase(user_id)

    async def forget(self, user_id: UUID) -> None:
        if self.vault is not None:
            await self.vault.forget(user_id)

    async def _asked(
        self, user_id: UUID, from_cell: str, saga_id: UUID, public_key: bytes
    ) -> move_pb2.HandOverContactResponse:
        request = move_pb2.HandOverContactRequest(user_id=str(user_id), saga_id=str(saga_id), public_key=public_key)
        try:
            stub = move_pb2_grpc.MoveServiceStub(await self.peers.channel(from_cell))
            return await self.peers.caller.call(stub.HandOverContact, request, to=from_cell, timeout_s=TIMEOUT_S)
        except (PeerUnknown, Refused) as error:
            raise Unavailable(problem=f"{from_cell} does not hand over the user's contact: {error}") from error
        except grpc.aio.AioRpcError as error:
            reason = refusal_in(error) or error.details()
            raise Unavailable(problem=f"{from_cell} does not hand over the user's contact: {reason}") from error


def _shared(own: X25519PrivateKey, public_key: bytes) -> Seal:
    """The key that both sides derive. Raises ValueError for a public key that yields none."""
    secret = own.exchange(X25519PublicKey.from_public_bytes(public_key))
    return Seal(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"cellbook/handover").derive(secret))
