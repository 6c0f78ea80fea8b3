"""The texts of the mails."""

from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from cells.domain.values import CURRENCY_EXPONENTS
from cells.notices import Notice
from server.contacts.vault import Contact
from server.shell.fields.texts import shown

# Notice -> subject and body.
TEXTS = {
    "AUCTION_WON": (
        "You have won an auction",
        "you have won the auction {auction} with your bid of {amount}. It is paid for, and the item is yours.",
    ),
    "ASSET_SOLD": (
        "Your item is sold",
        "your item in the auction {auction} was sold for {amount}. The money, less our fee, is in your account.",
    ),
    "SETTLEMENT_FAILED_FOR_WINNER": (
        "Your purchase was called off",
        (
            "you had won the auction {auction} with your bid of {amount}, but it could not be settled and was called "
            "off. You have paid nothing: what was reserved for it is yours to spend again."
        ),
    ),
    "SETTLEMENT_FAILED_FOR_SELLER": (
        "Your sale was called off",
        (
            "your item in the auction {auction} had found a buyer for {amount}, but the sale could not be settled and "
            "was called off. The item is still yours, and can be put up for auction again."
        ),
    ),
}


CONFIRMATION = "Confirm your mail address"
_CONFIRM = (
    "this address was given to us for notices of auctions. If it was you, confirm it with this code:\n\n    {code}\n\n"
    "If it was not you, do nothing, and no such notice will be sent to it."
)


def confirmation(notice: Notice, email: str, code: str, *, sender: str, at: datetime) -> EmailMessage:
    """The only mail to an unproven address; its text contains nothing that a user chose."""
    return _mail(notice, email, CONFIRMATION, f"Hello,\n\n{_CONFIRM.format(code=code)}\n", sender=sender, at=at)


def letter(notice: Notice, contact: Contact, *, sender: str, at: datetime) -> EmailMessage:
    subject, text = TEXTS[notice.notice]
    body = text.format(auction=notice.auction, amount=amount_text(notice.amount_minor, notice.currency))
    return _mail(notice, contact.email, subject, f"Dear {shown(contact.name)},\n\n{body}\n", sender=sender, at=at)


def _mail(notice: Notice, email: str, subject: str, body: str, *, sender: str, at: datetime) -> EmailMessage:
    """Its id is derived from the notice, so a mail server or reader can detect a duplicate.

    No header holds text that a person chose except the address: a display name may be an encoded word, which some
    versions of Python decode into further headers. Raises ValueError for an invalid address.
    """
    message = EmailMessage(policy=SMTP)
    message["Subject"] = subject
    message["From"] = sender
    message["To"] = Address(addr_spec=email)
    message["Date"] = format_datetime(at)
    message["Message-ID"] = f"<{notice.notice_id}@{sender.rpartition('@')[2].rstrip('>')}>"
    message["Auto-Submitted"] = "auto-generated"
    # 7-bit, so that any server accepts it.
    message.set_content(body, cte="quoted-printable")
    return message


def amount_text(amount_minor: int, currency: str) -> str:
    """12345 USD minor units as "123.45 USD", by the currency's exponent and without a float."""
    exponent = CURRENCY_EXPONENTS.get(currency, 0)
    units, rest = divmod(amount_minor, 10**exponent)
    return f"{units:,}{f'.{rest:0{exponent}}' if exponent else ''} {currency}"
