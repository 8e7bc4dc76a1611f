"""Finds which of torch's weights is which of the port's."""
