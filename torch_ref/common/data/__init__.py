"""Tables with a treatment and an outcome: made up, or read from files."""
