"""The rules of the ledger: pure, standard library only. Time and ids arrive as arguments."""
