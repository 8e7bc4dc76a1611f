"""Commands on tables larger than memory."""
