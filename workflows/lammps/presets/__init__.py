"""Named force fields."""
