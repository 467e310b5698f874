"""Calibration of the tasks: which episodes are run, and what follows from them."""
