"""A port of a user's own: from two files, at every save, and in pytest."""
