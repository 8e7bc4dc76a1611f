"""The page that a manager can read: what was found, how sure it is, and how it was made."""
