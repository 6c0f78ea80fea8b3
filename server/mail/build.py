"""Builds a cell's vault and mail from its settings."""

from pathlib import Path

from cells.store.ports import Clock
from server.contacts.erasures import Erasures
from server.contacts.seals import KeyFileInvalid, Seal, key_in
from server.contacts.vault import Vault
from server.mail.outbox import Outbox
from server.mail.sender import MailSender
from server.mail.smtp import MailServer
from server.process.settings import ServerSettings
from server.shell.files import require_writable
from server.shell.postgres.database import Pool
from server.shell.settings.addresses import parse_address


def build_vault(settings: ServerSettings, pool: Pool) -> Vault | None:
    """None if no key is configured and there is no folder to keep one in.

    Raises KeyFileInvalid, StateNotWritable.
    """
    path, ours = settings.vault_key_file, False
    if path is None and settings.data is not None:
        path, ours = settings.data / "vault.key", True
    if path is None:
        return None
    return Vault(pool=pool, seal=Seal(key_in(path, make=ours)), erasures=_erasures(settings, path))


def _erasures(settings: ServerSettings, key_file: Path) -> Erasures:
    """Raises StateNotWritable."""
    beside = key_file.with_name(f"{key_file.stem}.erasures")
    path = settings.state_dir / f"{settings.cell}.erasures" if settings.state_dir is not None else beside
    require_writable(path.parent, "the list of those who were erased")
    return Erasures(path, old=beside)


def build_mail_sender(settings: ServerSettings, outbox: Outbox, vault: Vault | None, clock: Clock) -> MailSender | None:
    """None if there is no mail server. Raises KeyFileInvalid."""
    if not settings.smtp or vault is None:
        return None
    server = MailServer(
        address=parse_address(settings.smtp),
        tls=settings.smtp_tls,
        username=settings.smtp_username,
        password=_text(settings.smtp_password_file),
        tls_ca=settings.smtp_tls_ca,
        timeout_s=settings.smtp_timeout_s,
        confirmed_within_s=settings.smtp_confirm_timeout_s,
    )
    return MailSender(outbox=outbox, vault=vault, server=server, sender=settings.mail_from, clock=clock)


def _text(path: Path | None) -> str:
    try:
        return path.read_text().strip() if path is not None else ""
    except OSError as error:
        raise KeyFileInvalid(f"smtp_password_file: cannot read {path}: {error.strerror}") from None
