"""Tests of users who move between cells."""
