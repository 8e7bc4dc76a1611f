"""Runs a port in JAX and writes down everything that it computes."""
