"""From a request's number or name to what carries it out, and from what goes wrong there to a status."""

from __future__ import annotations

import os

from tinyport.node.sftp import wire as w
from tinyport.node.sftp.extensions import EXTENSIONS
from tinyport.node.sftp.operations import REQUESTS, Operations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from tinyport.node.sftp.operations import Method

#: every request by the name that sftp-server(8) has for it
NAMES = frozenset([row[0] for row in REQUESTS.values()] + [row[0] for row in EXTENSIONS.values()])


class Requests:
    """Answers requests: those that are permitted, and not those that change anything when ``operations`` only reads.

    ``allowed``: nothing but these names; None: all. ``denied``: not these, whatever else is said.
    """

    def __init__(
        self, operations: Operations, *, allowed: Collection[str] | None = None, denied: Collection[str] = ()
    ) -> None:
        self._operations = operations
        self._methods: dict[int | bytes, Method] = {}
        self._refused: set[int | bytes] = set()
        self._announced: list[tuple[bytes, bytes]] = []
        rows: list[tuple[int | bytes, str, Method, bool]] = [(key, *row) for key, row in REQUESTS.items()]
        rows += [(key, name, method, writes) for key, (name, _, method, writes) in EXTENSIONS.items()]
        for key, name, method, writes in rows:
            permitted = name not in denied and (allowed is None or name in allowed)
            if not permitted or (writes and operations.read_only):
                self._refused.add(key)
                continue
            self._methods[key] = method
            if isinstance(key, bytes):
                self._announced.append((key, EXTENSIONS[key][1]))

    def greeting(self) -> bytes:
        """The answer to INIT: our version, and the extensions that will be carried out."""
        body = w.VERSION.to_bytes(4, "big") + b"".join(w.string(name) + w.string(v) for name, v in self._announced)
        return (1 + len(body)).to_bytes(4, "big") + bytes((w.VERSION_ANSWER,)) + body

    def answer(self, kind: int, identifier: int, packet: w.Packet) -> bytes | memoryview:
        """Carry out one request. A memoryview is good until the next request."""
        try:
            key = packet.string() if kind == w.EXTENDED else kind
            method = self._methods.get(key)
            if method is None:
                return w.status(identifier, w.PERMISSION_DENIED if key in self._refused else w.OP_UNSUPPORTED)
            return method(self._operations, identifier, packet)
        except w.BadPacket:
            return w.status(identifier, w.BAD_MESSAGE)
        except w.Refused as refused:
            return w.status(identifier, refused.code, refused.text.encode())
        except OSError as error:
            code = w.status_of(error)
            # The code's own text is what clients know; where the code says little, the system's says more.
            plain = code in (w.NO_SUCH_FILE, w.PERMISSION_DENIED) or not error.errno
            return w.status(identifier, code, b"" if plain else os.strerror(error.errno or 0).encode())
        except (OverflowError, ValueError):
            # Numbers that no system call takes, such as an offset beyond 2**63.
            return w.status(identifier, w.BAD_MESSAGE)
        except MemoryError:
            return w.status(identifier, w.FAILURE, b"Cannot allocate memory")

    def close(self) -> None:
        self._operations.handles.close_all()
