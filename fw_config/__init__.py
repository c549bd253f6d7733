"""Configuration shipped with orionflow: FireWorks templates and machine profiles."""

if __name__ != "orionflow.fw_config":
    msg = f"imported as {__name__!r}; the name is 'orionflow.fw_config', as stored in the database"
    raise ImportError(msg)
