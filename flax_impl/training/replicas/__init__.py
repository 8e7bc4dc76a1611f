"""Many trainings at once: one plan, and two ways to run it."""
