"""Results as DataFrames and figures, and the physics behind them."""

if __name__ != "orionflow.analysis":
    msg = f"imported as {__name__!r}; the name is 'orionflow.analysis', as stored in the database"
    raise ImportError(msg)
