"""Calls over real sockets: who may call, how a call ends, and what one client can hold."""
