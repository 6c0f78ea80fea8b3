"""Exports and imports the history of a user who moves between cells."""
