"""How far to trust an average effect: hidden confounding, and refutations."""
