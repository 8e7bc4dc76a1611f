"""Names what differs between two optimisers."""
