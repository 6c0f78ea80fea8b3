"""The pages of support: one user, and why money is reserved."""
