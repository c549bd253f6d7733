"""Documents stored as results."""
