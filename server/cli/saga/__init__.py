"""`cellbook saga`: what an operator sees of the sagas, and may do."""
