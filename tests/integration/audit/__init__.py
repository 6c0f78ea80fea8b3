"""Tests of proofs, witnesses, exports, evidence and the command line of an audit."""
