"""Tests of the RPCs of a cell, over a real socket."""
