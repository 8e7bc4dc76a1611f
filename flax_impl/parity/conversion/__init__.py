"""Finds how a port holds its reference's weights, and converts them; numpy only."""
