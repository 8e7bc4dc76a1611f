"""Tables of Parquet files whose columns are of any type: texts, categories and gaps become numbers as they are read."""
