"""Runs a port in JAX and writes down everything that it computes. Twin: `torch_ref.recording`."""
