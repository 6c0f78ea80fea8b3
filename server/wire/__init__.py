"""Converts between messages and the domain's values what several servicers or callers share. Only shape and bounds."""
