"""Checkpoints of a training: its state as files."""
