"""`cellbook saga`: shows sagas to operators, and lets them intervene."""
