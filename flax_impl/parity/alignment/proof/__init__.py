"""Runs the port again with values of the reference in it, and sees how far the two agree then."""
