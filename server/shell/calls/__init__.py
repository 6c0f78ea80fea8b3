"""One call from its headers to its status: identity, policy, limits, deadline, clock."""
