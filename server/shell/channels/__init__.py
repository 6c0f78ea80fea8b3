"""Channels to other servers, and calls over them."""
