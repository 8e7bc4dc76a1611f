"""Compares two traces entry by entry and finds the first divergence."""
