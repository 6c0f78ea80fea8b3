"""What contacts are refused with, beside the refusals of the ledger."""

from cells.domain.refusals import BusinessRefusal, NotFound


class ContactErased(BusinessRefusal):
    """user {user_id} was erased: what is known of that person is not to come back"""


class CodeWrong(BusinessRefusal):
    """the code is not the one that was mailed last to the address of user {user_id}; SetContact mails another one"""


class ConfirmationsExhausted(BusinessRefusal):
    """nothing has changed: today no further mail asks that address, or user {user_id}, for a confirmation"""


class ContactSealed(BusinessRefusal):
    """what is known of user {user_id} does not open: it was sealed with another key than that in vault_key_file"""


class ContactsNotKept(BusinessRefusal):
    """cell {cell} keeps no contacts: its setting vault_key_file is empty"""


class ContactNotFound(NotFound):
    """nothing is known of user {user_id}"""
