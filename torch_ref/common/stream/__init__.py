"""Tables larger than memory: row groups of Parquet files, read while a model trains or predicts."""
