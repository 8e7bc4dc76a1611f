"""Says what a port does otherwise than its reference at a place, where that can be checked; numpy only."""
