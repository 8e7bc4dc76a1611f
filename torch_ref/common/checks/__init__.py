"""Bad input gets one clear error: which argument, what was expected, what came."""
