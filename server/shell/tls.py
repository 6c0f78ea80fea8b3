"""Our certificate and whom we trust, as gRPC takes them: read again when the files change, without a restart.

A server shows the newest certificate at each handshake. gRPC's channels keep the one that they were opened with:
whoever holds channels opens them anew when `generation` has changed (places.py).
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

log = structlog.get_logger()

# Files are looked at no more often than this.
LOOK_S = 1.0
CERTIFICATE_BYTES_MAX = 256 * 1024


class TlsInvalid(Exception):
    """A file of TLS cannot be used. The message names the setting and the file, and says why."""


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
    """Raises TlsInvalid when made of files that cannot be used; later ones that cannot be used change nothing."""

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
        """The generation of what the files hold now."""
        with self._lock:
            now_s = self.monotonic_s()
            if now_s - self._looked_s >= LOOK_S:
                self._looked_s = now_s
                self._look()
            return self.generation

    def server_credentials(self, *, client_certificates: bool) -> grpc.ServerCredentials:
        """With `client_certificates` nobody gets in without one; without, none is asked for."""
        known = self.generation

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal known
            generation = self.renewed()
            if generation == known:
                # What the server has is what there is.
                return None
            known = generation
            return self._configuration()

        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            # Its type does not know that None says "no change".
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
                # Half written, maybe: the next look finds the rest.
                log.warning("certificate_not_reloaded", problem=str(problem))
                return
            self._seen = seen
            if pem != self._pem:
                self._pem = pem
                self.generation += 1
                log.info("certificate_reloaded", generation=self.generation)


def read_pem(files: TlsFiles) -> Pem:
    """Raises TlsInvalid: a file cannot be read, is none, or key and certificate are not a pair."""
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
    """When the first certificate is good no more."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def read_certificate(pem: bytes) -> tuple[datetime, str]:
    """The same, and the SHA-256 of that certificate, in hexadecimal."""
    certificate = x509.load_pem_x509_certificate(pem)
    return certificate.not_valid_after_utc, certificate.fingerprint(hashes.SHA256()).hex()


def host_of(cert: Path) -> str:
    """The first host that a server's certificate is for; empty: none. Raises TlsInvalid."""
    certificate = _certificates("tls_cert", cert, _read("cert", cert))[0]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return hosts[0] if hosts else ""


def read_roots(path: Path) -> bytes:
    """Whom to trust, for clients without a certificate. Raises TlsInvalid."""
    pem = _read("ca", path)
    _certificates("tls_ca", path, pem)
    return pem


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
    """What changes when a file is written or replaced. Raises OSError."""
    try:
        return [(path.stat().st_mtime_ns, path.stat().st_ino, path.stat().st_size) for path in files]
    except FileNotFoundError:
        return []
