"""The tape: the graph of operations of one step, with a fingerprint of every value; numpy only."""
