"""Keys: each person's own, sealed with the cell's key, which is in a file outside the database.

AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits. Sealed data is bound to its user and field, so it does not
open if it is moved to another row or column.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cells.store.unusable import CannotServe
from server.shell.files import create_secret

KEY_BYTES = 32
_NONCE_BYTES = 12


class SealBroken(Exception):
    """The stored data was not sealed with this key, or not for this place."""


class KeyFileInvalid(CannotServe):
    """The key file cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True, repr=False)
class Seal:
    key: bytes

    def seal(self, content: bytes, user_id: UUID, field: str) -> bytes:
        """The nonce, then the ciphertext with its tag."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + AESGCM(self.key).encrypt(nonce, content, _place(user_id, field))

    def open(self, sealed: bytes, user_id: UUID, field: str) -> bytes:
        """Raises SealBroken."""
        try:
            return AESGCM(self.key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _place(user_id, field))
        except (InvalidTag, ValueError):
            raise SealBroken(f"{field} of {user_id} does not open with the key that is configured") from None


def _place(user_id: UUID, field: str) -> bytes:
    return f"cellbook/contacts/{user_id}/{field}".encode()


def new_key() -> bytes:
    return os.urandom(KEY_BYTES)


def key_in(path: Path, *, make: bool) -> bytes:
    """The key in a file of 64 hexadecimal digits; `make` creates a missing file. Raises KeyFileInvalid."""
    if make and not path.exists():
        create_secret(path, new_key().hex() + "\n")
    try:
        key = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise KeyFileInvalid(f"vault_key_file: cannot read {path}: {error.strerror}") from None
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyFileInvalid(
            f"vault_key_file: {path} must hold {2 * KEY_BYTES} hexadecimal digits: openssl rand -hex 32"
        )
    return key
