"""Intervals that are checked against outcomes: calibrated on a twin table, and conformal."""
