"""Effects of tables larger than memory, which are read while nets train and predict."""
