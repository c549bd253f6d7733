"""orionflow: campaigns of materials simulations as batch jobs on Slurm."""

__version__ = "0.1.0"
