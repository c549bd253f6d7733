"""Numpy in, numbers out; no input or output."""
