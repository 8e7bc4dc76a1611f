"""What both packages share, in numpy only; importing it loads neither torch nor JAX."""
