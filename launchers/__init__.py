"""Everything between a READY firework and a finished process: Slurm, MPI, Custodian, MongoDB."""

if __name__ != "orionflow.launchers":
    msg = f"imported as {__name__!r}; the name is 'orionflow.launchers', as stored in the database"
    raise ImportError(msg)
