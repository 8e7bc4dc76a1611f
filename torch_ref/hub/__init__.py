"""What both frameworks share, in numpy only: checks, batches, tables, files, progress.

The two packages are sealed, so each carries this folder; `torch_ref/hub` and `flax_impl/hub` hold the same bytes, and a
test compares them. Change one side and copy it over the other.
"""
