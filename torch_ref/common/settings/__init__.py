"""Settings of optimisers and schedules, described once for both frameworks."""
