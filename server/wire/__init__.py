"""Converts between the wire's messages and the domain's values, one file per service. Only shape and bounds."""
