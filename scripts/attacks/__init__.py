"""Attacks on the commands: each is a function that tries some blows, and returns what it found."""
