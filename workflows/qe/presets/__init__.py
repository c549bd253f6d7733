"""Named sets of QE parameters."""
