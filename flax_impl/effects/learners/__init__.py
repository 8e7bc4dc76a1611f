"""Learners beside the nets, and what all of them expect of rows that they did not see."""
