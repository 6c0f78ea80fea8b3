"""Refusals about contacts, besides those of the ledger."""

from cells.domain.refusals import BusinessRefusal, NotFound


class ContactErased(BusinessRefusal):
    """user {user_id} was erased, and that person's contact cannot be stored again"""


class CodeWrong(BusinessRefusal):
    """the code is not the last one mailed to the address of user {user_id}; SetContact mails another one"""


class ConfirmationsExhausted(BusinessRefusal):
    """nothing has changed: the confirmation mails for that address, or for user {user_id}, are used up for today"""


class ContactSealed(BusinessRefusal):
    """the contact of user {user_id} cannot be opened: it was sealed with another key than that in vault_key_file"""


class ContactsNotKept(BusinessRefusal):
    """cell {cell} keeps no contacts: its setting vault_key_file is empty"""


class ContactNotFound(NotFound):
    """no contact of user {user_id} is stored"""
