"""What a comparison found, as objects, text and HTML."""
