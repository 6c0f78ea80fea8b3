"""The event store: its ports, and its adapters for PostgreSQL and for memory."""
