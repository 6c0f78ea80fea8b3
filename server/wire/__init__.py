"""Converts between the wire's messages and the domain's values, what several services or callers share. Only shape and bounds."""
