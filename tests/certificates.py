"""Certificates for 127.0.0.1: of a CA of the test's own, "ca.pem", for both sides, "theirs" and "ours"."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey


def make_certificates(folder: Path) -> None:
    ca_key, ca_name = ec.generate_private_key(ec.SECP256R1()), name_of("test ca")
    ca = signed(ca_name, ca_key, issuer=ca_name, issuer_key=ca_key, authority=True)
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    for side in ("theirs", "ours"):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = signed(name_of(side), key, issuer=ca_name, issuer_key=ca_key, authority=False)
        (folder / f"{side}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{side}.key").write_bytes(pem)


def name_of(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def signed(subject: x509.Name, key: Key, *, issuer: x509.Name, issuer_key: Key, authority: bool) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
