"""identity.json: what a node or proxy is, in one file, so that it changes as a whole or not at all.

It holds the only secrets a node keeps, its two private keys, and is readable by the service's owner alone. A node has
it in a memory file besides, which its processes hand on (``Kept``); with ``identity = "memory"`` there alone.
"""

from __future__ import annotations

import fcntl
import json
import os

from tinyport.core.errors import OperatorError
from tinyport.host.files import read_limited, write_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1
MAX_FILE = 256 * 1024
# Of a memory file: several times what an identity takes.
MEMORY_SIZE = 64 * 1024
# Where there is no file for them, what stands before the keys of a join whose answer has not come.
_PENDING = b"pending\n"

#: the id of the token that it came by, or of a later one that has been looked at; absent in files of before
CAME_BY = "came_by"
#: key → type of its value; every key must be there
FIELDS: dict[str, type | tuple[type, ...]] = {
    "version": int,
    "kind": str,
    "cluster": str,
    "uuid": str,
    "name": str,
    "generation": int,
    "ssh_key": str,
    "ssh_certificate": str,
    "tls_key": str,
    "tls_certificate": str,
    "tls_cas": list,
    "policy_key": str,
    "server": str,
    "proxies": list,
    "ca_pins": list,
    "valid_after": (int, float),
    "valid_before": (int, float),
}


def load(path: str | Path) -> dict[str, object]:
    """Read an identity. FileNotFoundError when there is none; OperatorError when it is damaged or of a newer
    version.
    """
    return _parse(read_limited(path, MAX_FILE), str(path))


def _parse(data: bytes, name: str) -> dict[str, object]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise OperatorError(f"{name} is damaged", hint="move it away and join again with a new token") from None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise OperatorError(f"{name} is not an identity of this version of tinyport")
    wrong = [field for field, kind in FIELDS.items() if not isinstance(found.get(field), kind)]
    if wrong:
        raise OperatorError(
            f"{name} is damaged: {', '.join(wrong)}", hint="move it away and join again with a new token"
        )
    return found


def text(identity: dict[str, object]) -> bytes:
    """What stands in the file."""
    return json.dumps(identity, indent=1, sort_keys=True).encode()


def save(path: str | Path, identity: dict[str, object]) -> None:
    """Write an identity, whole and 0600."""
    write_private(path, text(identity))


def load_for(path: str | Path, server: str) -> dict[str, object]:
    """Read an identity, and have it renew at ``server`` ("host:port"), which may have changed since it was written: a
    cluster that moved must not strand its machines at their next renewal.
    """
    identity = load(path)
    if identity["server"] != server:
        identity["server"] = server
        save(path, identity)
    return identity


class Kept:
    """Where an identity is: a file, a memory file, or a file with a memory file before it, which is what counts once
    something is in it. ``folder``: of the documents, for one without a file.
    """

    def __init__(self, path: str | Path | None, memory: int | None = None, folder: str | Path | None = None) -> None:
        self.path = path
        self.memory = memory
        self._folder = folder
        #: why the file is older than the memory file; "" when it is not
        self.unsaved = ""

    @property
    def folder(self) -> Path:
        """Of the documents that belong to it."""
        # The keeper has no need of it, nor of what it brings.
        from pathlib import Path

        if self.path is not None:
            return Path(self.path).parent
        assert self._folder is not None
        return Path(self._folder)

    def load(self) -> dict[str, object]:
        """As the module's ``load``."""
        if self.memory is not None:
            data = read_memory(self.memory)
            if data and not data.startswith(_PENDING):
                return _parse(data, "the identity in memory")
        if self.path is None:
            raise FileNotFoundError("there is no identity in memory")
        return load(self.path)

    def save(self, identity: dict[str, object]) -> None:
        """Write it, whole: first to where it cannot fail. OSError when there is only the file, and it cannot be."""
        if self.memory is not None:
            write_memory(self.memory, text(identity))
        if self.path is None:
            return
        try:
            save(self.path, identity)
        except OSError as error:
            if self.memory is None:
                raise
            self.unsaved = (error.strerror or str(error)).lower()
        else:
            self.unsaved = ""

    # ------------------------------------------------------------------ keys of a join whose answer has not come

    @property
    def _pending(self) -> Path | None:
        return None if self.path is None else self.folder / "identity.pending.json"

    def pending(self) -> bytes:
        """Keys of an earlier try; empty when there are none."""
        if self._pending is None:
            data = b"" if self.memory is None else read_memory(self.memory)
            return data[len(_PENDING) :] if data.startswith(_PENDING) else b""
        try:
            return read_limited(self._pending, MAX_FILE)
        except FileNotFoundError:
            return b""

    def keep_pending(self, data: bytes) -> None:
        """Before anybody hears of them. OSError when they cannot be kept."""
        if self._pending is not None:
            write_private(self._pending, data)
        elif self.memory is not None and read_memory(self.memory)[:1] in (b"", _PENDING[:1]):
            # An identity that is still good stays; then there are other keys at the next try.
            write_memory(self.memory, _PENDING + data)

    def damaged_pending(self) -> None:
        """What was found is of no use: out of the way with it."""
        if self._pending is not None:
            os.replace(self._pending, self._pending.with_suffix(".damaged"))

    def forget_pending(self) -> None:
        """There is an identity now."""
        if self._pending is not None:
            self._pending.unlink(missing_ok=True)


def kept(place: Path | Kept) -> Kept:
    """A file's name stands for the file."""
    return place if isinstance(place, Kept) else Kept(place)


def read_memory(descriptor: int) -> bytes:
    """What is in a memory file that another process may be writing to."""
    # The lock belongs to the process and the file, not to the descriptor, which all of them share (fcntl(2)).
    fcntl.lockf(descriptor, fcntl.LOCK_SH)
    try:
        return os.pread(descriptor, MAX_FILE, 0).rstrip(b"\0")
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN)


def write_memory(descriptor: int, data: bytes) -> None:
    """Replace what is in it. It never becomes shorter, so that its pages stay where they were locked."""
    fcntl.lockf(descriptor, fcntl.LOCK_EX)
    try:
        size = max(os.fstat(descriptor).st_size, MEMORY_SIZE)
        os.pwrite(descriptor, data.ljust(size, b"\0"), 0)
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN)
