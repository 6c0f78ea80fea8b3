"""Keys: each person's own, sealed with the cell's key, which lies in a file outside of the database.

AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits. What is sealed is bound to the user and the field that it
is for: moved to another row or column it does not open.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cells.unusable import CannotServe

KEY_BYTES = 32
_NONCE_BYTES = 12


class SealBroken(Exception):
    """What is stored was not sealed with this key, or for this place."""


class KeyFileInvalid(CannotServe):
    """The key file cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True, repr=False)
class Seal:
    key: bytes

    def seal(self, content: bytes, user_id: UUID, field: str) -> bytes:
        """The nonce, then what is sealed with its tag."""
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
    """The key in a file of 64 hexadecimal digits; with `make` a new one where there is none. Raises KeyFileInvalid."""
    if make and not path.exists():
        _make(path)
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


def _make(path: Path) -> None:
    """Whole or not at all, and whoever comes second takes the one that is there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(new_key().hex() + "\n")
        file.flush()
        os.fsync(handle)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
