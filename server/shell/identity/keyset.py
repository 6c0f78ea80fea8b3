"""The keys that sign tokens, from a JWKS file or URL; reloaded periodically, and when a token names an unknown key."""

import asyncio
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPMessage
from pathlib import Path
from types import MappingProxyType
from typing import IO
from urllib.parse import urlsplit

import jwt
import structlog

from cells.background import BackgroundTask, note_failure

log = structlog.get_logger()

# A fixed list: a token states its own algorithm, and must not be able to choose it.
ALGORITHMS = ("EdDSA", "ES256", "RS256")
RSA_BITS_MIN = 2048
KEYS_MAX = 100
KEY_SET_BYTES_MAX = 256 * 1024
FETCH_TIMEOUT_S = 5.0
# Tokens that name an unknown key trigger a reload at most this often.
UNKNOWN_KEY_PAUSE_S = 5.0
UNKNOWN_KEY_WAIT_S = 1.0
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_SHOWN_MAX = 200


class KeySetInvalid(Exception):
    """The keys cannot be used. The message names setting and source, and says why."""


Keys = Mapping[str, jwt.PyJWK]


@dataclass(slots=True, kw_only=True)
class KeySet:
    """`source`: a file, or an https URL. `changed` is called when the keys have changed."""

    source: str
    refresh_s: float
    changed: Callable[[], None]
    monotonic_s: Callable[[], float] = time.monotonic
    keys: Keys = field(default_factory=lambda: MappingProxyType({}))
    _text: str = ""
    _looked_s: float = float("-inf")
    _looking: asyncio.Task[None] | None = None
    background: BackgroundTask = field(init=False)

    def __post_init__(self) -> None:
        self.background = BackgroundTask(name="token_keys", work=self.refresh, every_s=self.refresh_s)

    @property
    def is_url(self) -> bool:
        return "://" in self.source

    def load(self) -> None:
        """Loads the keys of a file at once. A URL is loaded by `background`, not at the start. Raises KeySetInvalid."""
        if self.is_url:
            _checked_url(self.source)
        else:
            self._take(_read_from(self.source))

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """The key with that id. If it is unknown, the keys are reloaded once, unless that has just been done."""
        key = self.keys.get(kid)
        if key is not None:
            return key
        if self._looking is None and self.monotonic_s() - self._looked_s >= UNKNOWN_KEY_PAUSE_S:
            self._looking = asyncio.create_task(self._look())
        if self._looking is not None:
            # No longer than this: the token issuer may be slow, and any client can name a key that does not exist.
            await asyncio.wait({self._looking}, timeout=UNKNOWN_KEY_WAIT_S)
        return self.keys.get(kid)

    async def refresh(self) -> None:
        """Looks for newer keys."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        await asyncio.wait({self._looking})

    async def _look(self) -> None:
        try:
            self._take(await asyncio.to_thread(_fetch if self.is_url else _read_from, self.source))
        except KeySetInvalid as problem:
            # The known keys stay valid: the token issuer may be away for a while.
            log.warning("keys_not_refreshed", problem=str(problem))
        except Exception:  # noqa: BLE001 - who waits for a key asks again, and so does the next look
            note_failure(self.background.name)
        finally:
            self._looked_s = self.monotonic_s()
            self._looking = None

    def _take(self, text: str) -> None:
        if text == self._text:
            return
        self.keys, self._text = parse_keys(text, self.source), text
        log.info("keys_loaded", keys_count=len(self.keys))
        self.changed()


def parse_keys(text: str, source: str) -> Keys:
    """The keys of a JWKS by id. Keys of other uses and kinds are left out. Raises KeySetInvalid."""
    try:
        found = jwt.PyJWKSet.from_json(text).keys
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
        found = []
    keys = {str(key.key_id): key for key in found if _is_usable(key)}
    if not keys or len(found) > KEYS_MAX:
        raise KeySetInvalid(
            f"jwt_keys: {source} is no JWKS, or has no key that can be used here: expected "
            f'{{"keys": [..]}} with at most {KEYS_MAX} public keys with a kid, for ' + ", ".join(ALGORITHMS)
        )
    return MappingProxyType(keys)


def _is_usable(key: jwt.PyJWK) -> bool:
    # The key itself determines the algorithm, never the token, so no public key is used as a shared secret.
    return (
        isinstance(key.key_id, str)
        and key.public_key_use in {None, "sig"}
        and key.algorithm_name in ALGORITHMS
        and (key.algorithm_name != "RS256" or key.key.key_size >= RSA_BITS_MIN)
    )


def _read_from(source: str) -> str:
    try:
        with Path(source).open("rb") as file:
            return file.read(KEY_SET_BYTES_MAX).decode()
    except (OSError, UnicodeDecodeError) as problem:
        raise KeySetInvalid(f"jwt_keys: cannot read {source}: {problem}") from None


def _checked_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return
    raise KeySetInvalid(f"jwt_keys: {url}: keys come from a file or by https:// only, or anybody could send them")


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only: on any other scheme an attacker could answer with keys of their own."""

    def redirect_request(  # noqa: PLR0917 - as urllib calls it
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise ValueError(f"it redirects to {newurl[:_SHOWN_MAX]!r}, and keys come by https:// only")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_HttpsRedirects)


def _fetch(url: str) -> str:
    try:
        with _OPENER.open(url, timeout=FETCH_TIMEOUT_S) as answer:
            text: str = answer.read(KEY_SET_BYTES_MAX).decode()
            return text
    except (OSError, ValueError) as problem:
        raise KeySetInvalid(f"jwt_keys: nothing from {url}: {problem}") from None
