"""Quantum ESPRESSO recipes."""
