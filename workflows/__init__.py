"""Recipes: structures and Makers in, FireWorks workflows and checked documents out."""

if __name__ != "orionflow.workflows":
    msg = f"imported as {__name__!r}; the name is 'orionflow.workflows', as stored in the database"
    raise ImportError(msg)
