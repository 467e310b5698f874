"""Benchmarks: controlled comparisons and the calibration of the tasks."""
