"""Flows that work with the Makers of any code."""
