"""Tests of sagas: engines, orders, versions, transfers, and the legs that a hostile cell requests."""
