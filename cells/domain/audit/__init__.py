"""Events and refusals of audits and proofs. None of them moves money."""
