"""MongoDB and Slurm for machines that have none."""
