"""Our certificate and trusted roots for gRPC, reloaded when the files change, without a restart.

A server presents the newest certificate at each handshake. A gRPC channel keeps the one that it was opened with, so
owners of channels reopen them when `generation` changes (channel_pool.py).
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization

from cells.store.unusable import CannotServe

log = structlog.get_logger()

# Files are checked at most this often.
POLL_S = 1.0
CERTIFICATE_BYTES_MAX = 256 * 1024


class TlsInvalid(CannotServe):
    """A TLS file cannot be used. The message names the setting and the file, and says why."""


class TlsFiles(NamedTuple):
    """PEM files: our certificate with its chain, its key, and the roots that sign those of others."""

    cert: Path
    key: Path
    ca: Path


class Pem(NamedTuple):
    cert: bytes
    key: bytes
    ca: bytes


@dataclass(slots=True)
class Certificates:
    """Raises TlsInvalid if the files cannot be used at construction; later unusable files change nothing."""

    files: TlsFiles
    monotonic_s: Callable[[], float] = time.monotonic
    generation: int = 0
    _pem: Pem = field(init=False)
    _seen: Sequence[object] = field(init=False)
    _looked_s: float = field(init=False)
    # gRPC asks from threads of its own.
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._seen = _marks(self.files)
        self._pem = read_pem(self.files)
        self._looked_s = self.monotonic_s()

    def renewed(self) -> int:
        """The generation of the current file contents."""
        with self._lock:
            now_s = self.monotonic_s()
            if now_s - self._looked_s >= POLL_S:
                self._looked_s = now_s
                self._look()
            return self.generation

    def server_credentials(self, *, client_certificates: bool) -> grpc.ServerCredentials:
        """With `client_certificates` every client must present one; without, none is asked for."""
        known = self.generation

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal known
            generation = self.renewed()
            if generation == known:
                # The server already has the current certificate.
                return None
            known = generation
            return self._configuration()

        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            # Its type does not cover None, which means "no change".
            fetch,  # type: ignore[arg-type]
            require_client_authentication=client_certificates,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        self.renewed()
        pem = self._pem
        return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.cert)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pem = self._pem
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.ca)

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            seen = _marks(self.files)
            if seen == self._seen:
                return
            try:
                pem = read_pem(self.files)
            except TlsInvalid as problem:
                # The file may be half written; the next check reads the rest.
                log.warning("certificate_not_reloaded", problem=str(problem))
                return
            self._seen = seen
            if pem != self._pem:
                self._pem = pem
                self.generation += 1
                log.info("certificate_reloaded", generation=self.generation)


def read_pem(files: TlsFiles) -> Pem:
    """Raises TlsInvalid: a file cannot be read, is not PEM, or key and certificate do not match."""
    pem = Pem(*(_read(name, path) for name, path in files._asdict().items()))
    certificate = _certificates("tls_cert", files.cert, pem.cert)[0]
    _certificates("tls_ca", files.ca, pem.ca)
    try:
        key = serialization.load_pem_private_key(pem.key, password=None)
    except (ValueError, TypeError) as problem:
        raise TlsInvalid(f"tls_key: {files.key} holds no private key in PEM without a password: {problem}") from None
    if _public(key.public_key()) != _public(certificate.public_key()):
        raise TlsInvalid(f"tls_key: {files.key} is not the key of the certificate in {files.cert}")
    if certificate.not_valid_after_utc < datetime.now(UTC):
        raise TlsInvalid(f"tls_cert: {files.cert} has expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    return pem


def expires_at(pem: bytes) -> datetime:
    """When the first certificate expires."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def read_certificate(pem: bytes) -> tuple[datetime, str]:
    """The same, and the SHA-256 of that certificate, in hexadecimal."""
    certificate = x509.load_pem_x509_certificate(pem)
    return certificate.not_valid_after_utc, certificate.fingerprint(hashes.SHA256()).hex()


def host_of(cert: Path) -> str:
    """The first host in a server's certificate; empty: none. Raises TlsInvalid."""
    certificate = _certificates("tls_cert", cert, _read("cert", cert))[0]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return hosts[0] if hosts else ""


def _read(name: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(CERTIFICATE_BYTES_MAX)
    except OSError as problem:
        raise TlsInvalid(f"tls_{name}: cannot read {path}: {problem.strerror}") from None


def _certificates(setting: str, path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, InvalidSignature) as problem:
        raise TlsInvalid(f"{setting}: {path} holds no certificate in PEM: {problem}") from None


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _marks(files: TlsFiles) -> list[object]:
    """Values that change when a file is written or replaced. Raises OSError."""
    try:
        return [(path.stat().st_mtime_ns, path.stat().st_ino, path.stat().st_size) for path in files]
    except FileNotFoundError:
        return []
