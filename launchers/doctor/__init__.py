"""Checks of a project and its machine: what was seen, and what to do about it."""
