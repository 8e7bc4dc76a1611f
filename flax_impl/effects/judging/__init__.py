"""How good estimated effects are, with and without a known truth."""
