"""Messages between the launcher and its workers: BSON, each after its length.

BSON is what MongoDB's documents arrive in: they pass unchanged, and nothing in them can be run.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

import bson
from bson.codec_options import CodecOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = struct.Struct("!Q")
_CHUNK = 1 << 20
# As FireWorks' own client reads dates.
_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=False)

Message = dict[str, Any]


class Channel:
    """One end of a connection; blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self.sock.fileno()

    def send(self, message: Message) -> None:
        """Send a message.

        Raises
        ------
        OSError
            The other end is gone.
        bson.errors.InvalidDocument
            It holds what MongoDB can't store.
        """
        data = encode(message)
        self.sock.sendall(_HEAD.pack(len(data)) + data)

    def receive(self) -> Message | None:
        """Wait for a message; None when the other end is gone."""
        while (message := self._take()) is None:
            if not self._fill():
                return None
        return message

    def ready(self) -> Iterator[Message]:
        """Read once, then give all whole messages; raises EOFError when the other end is gone."""
        if not self._fill():
            raise EOFError
        while (message := self._take()) is not None:
            yield message

    def close(self) -> None:
        """Close this end."""
        self.sock.close()

    def _fill(self) -> bool:
        try:
            data = self.sock.recv(_CHUNK)
        except ConnectionError:
            return False
        self._buffer += data
        return bool(data)

    def _take(self) -> Message | None:
        if len(self._buffer) < _HEAD.size:
            return None
        (length,) = _HEAD.unpack_from(self._buffer)
        end = _HEAD.size + length
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[_HEAD.size:end])
        del self._buffer[:end]
        return decode(data)


def encode(message: Message) -> bytes:
    """Return a message as it is sent.

    Raises
    ------
    bson.errors.InvalidDocument
        It holds what MongoDB can't store.
    """
    try:
        return bson.encode(message)
    except UnicodeEncodeError:  # names of files that are not UTF-8, in an error's message
        return bson.encode(_valid(message))


def decode(data: bytes) -> Message:
    """Return a message as it is received.

    Raises
    ------
    bson.errors.BSONError
        The bytes are no message.
    """
    return bson.decode(data, _CODEC)


def _valid(value: Any) -> Any:
    """Return a copy whose text is UTF-8."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_valid(k): _valid(v) for k, v in value.items()}
    return [_valid(v) for v in value] if isinstance(value, (list, tuple)) else value


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
