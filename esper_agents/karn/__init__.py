"""Karn: shows runs, live or long over, from their event logs alone."""
