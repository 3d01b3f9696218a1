"""Faults made on purpose, and what is lost by them; see tools/faultcheck.py."""
