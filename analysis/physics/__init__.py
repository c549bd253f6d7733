"""Numpy in, numbers out; no input or output."""

from orionflow.analysis.physics.eos import EosFit, birch_murnaghan

__all__ = ["EosFit", "birch_murnaghan"]
