"""Arrays in documents: packed, so that a trajectory is stored in seconds, not minutes."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

from orionflow.errors import OutputError
from orionflow.workflows.schemas.base import BlobReference


def pack(array: NDArray[Any]) -> dict[str, Any]:
    """Return an array as little-endian bytes in base64, with its shape.

    jobflow looks at every number of a list one by one; a million of them take seconds.
    """
    little = np.ascontiguousarray(array, dtype=np.dtype(array.dtype).newbyteorder("<"))
    return {"dtype": little.dtype.str, "shape": list(array.shape),
            "base64": base64.b64encode(little.tobytes()).decode()}


def unpack(value: Any) -> NDArray[Any]:
    """Return the array of `pack`; arrays and lists of numbers pass."""
    if isinstance(value, dict):
        try:
            raw = base64.b64decode(value["base64"], validate=True)
            return np.frombuffer(raw, dtype=value["dtype"]).reshape(value["shape"]).copy()
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError(f"not a packed array: {error}", path="(stored document)",
                              expected="dtype, shape, base64") from error
    return np.asarray(value)


PackedArray = Annotated[
    NDArray[Any],
    BeforeValidator(unpack),
    PlainSerializer(pack),
    WithJsonSchema({"type": "object", "required": ["dtype", "shape", "base64"]}),
]


class StoredObject(BaseModel):
    """A part of a document kept as an object of its own (GridFS).

    A document read without its objects holds a `BlobReference` in their place.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Return the object, or a reference when it was not loaded."""
        if "blob_uuid" in data:
            return BlobReference(blob_uuid=data["blob_uuid"], store=data["store"])
        return cls(**{k: v for k, v in data.items() if not k.startswith("@")})
