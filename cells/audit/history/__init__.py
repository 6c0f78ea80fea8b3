"""Answers questions about the past: balances, statements, traces and the snapshots behind them."""
