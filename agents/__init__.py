"""Programs and people that read results and add work, through one narrow surface."""

if __name__ != "orionflow.agents":
    msg = f"imported as {__name__!r}; the name is 'orionflow.agents', as stored in the database"
    raise ImportError(msg)
