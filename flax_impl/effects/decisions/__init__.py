"""What to do with effects: whom to treat, what that is worth, who gains, and what moves the effect."""
