"""The directory's migrations and queries."""
