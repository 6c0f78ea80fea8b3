"""How the command proves its identity: not at all in development; otherwise by certificate and, mostly, tokens."""

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from grpc import aio

from server.shell.identity.principal import PRINCIPAL_KEY, TOKEN_KEY, parse_principal

if TYPE_CHECKING:
    from server.cli.keys.authority import Authority
    from server.shell.identity.tls import TlsFiles

# For tokens that we sign ourselves; a token is replaced after half of this time.
TOKEN_VALID_S = 3_600.0

Metadata = tuple[tuple[str, str], ...]
Options = Sequence[tuple[str, int | str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """`token` returns the token of a principal, or "" if the certificate alone identifies the caller."""

    tls: "TlsFiles | None" = None
    token: Callable[[str], str] | None = None

    def channel(self, target: str, options: Options) -> aio.Channel:
        """Raises TlsInvalid. To be closed."""
        if self.tls is None:
            return aio.insecure_channel(target, options=options)
        from server.shell.identity.tls import Certificates  # noqa: PLC0415 - as in access_by_keys

        return aio.secure_channel(target, Certificates(self.tls).channel_credentials(), options=options)

    def metadata(self, principal: str) -> Metadata:
        """The metadata that state, or prove, that `principal` calls."""
        if self.tls is None:
            return ((PRINCIPAL_KEY, principal),)
        token = self.token(principal) if self.token is not None else ""
        return ((TOKEN_KEY, f"Bearer {token}"),) if token else ()


PLAIN = Access()
_CHOSEN: ContextVar[Access] = ContextVar("access", default=PLAIN)


@dataclass(slots=True)
class Minted:
    """For development: tokens signed here, for any principal that the command acts as."""

    authority: "Authority"
    monotonic_s: Callable[[], float] = time.monotonic
    _tokens: dict[str, tuple[float, str]] = field(default_factory=dict)

    def __call__(self, principal: str) -> str:
        now_s = self.monotonic_s()
        renew_s, token = self._tokens.get(principal, (0.0, ""))
        if not token or now_s >= renew_s:
            token = self.authority.token(parse_principal(principal), valid=timedelta(seconds=TOKEN_VALID_S))
            self._tokens[principal] = (now_s + TOKEN_VALID_S / 2, token)
        return token


def access_by_keys(folder: Path) -> Access:
    """With all identities whose keys a folder of `cellbook keys dev` contains."""
    from server.cli.keys.authority import Authority  # noqa: PLC0415 - takes as long as all else

    authority = Authority(folder)
    return Access(tls=authority.tls("operator"), token=Minted(authority))


def access_by_files(tls: "TlsFiles", token_file: Path | None) -> Access:
    """With one certificate and a token file, which is read again for each call because it may have been renewed."""
    if token_file is None:
        return Access(tls=tls)
    return Access(tls=tls, token=lambda _: token_file.read_text("utf-8").strip())


def chosen_access() -> Access:
    """Selected by the options before the command."""
    return _CHOSEN.get()


def choose_access(access: Access) -> None:
    _CHOSEN.set(access)
