"""Writes the log as a file, and restores an empty database from one."""
