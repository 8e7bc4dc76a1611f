"""Aligns two tapes by their values, and finds the operations at which they part; numpy only."""
