"""Holds what a comparison found, and shows it as text and HTML."""
