"""The wire's messages to and from the domain's values, one file a service. No logic: shape and bounds."""
