"""Contacts and the mail to them."""
