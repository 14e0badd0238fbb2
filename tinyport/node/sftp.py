"""The sftp server: version 3 with OpenSSH's extensions on standard input and output, as the user.

The keeper starts it with ``--become uid:gid:group,group``: as root it imports its code (which the user need not be
able to read)
and becomes the user before it reads a byte. It never serves as root unless uid 0 was asked for.
"""

from __future__ import annotations

import os
import sys

from tinyport.node import sftp_wire as w
from tinyport.node.sftp_operations import ANNOUNCED, Operations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_READ = 128 * 1024


class Options:
    """The parsed command line."""

    __slots__ = ("become", "folder", "read_only")

    def __init__(self, words: Sequence[str]) -> None:
        self.become: tuple[int, int, list[int]] | None = None
        self.read_only = False
        self.folder: str | None = None
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--read-only":
                self.read_only = True
            elif word == "--become" and rest:
                uid, gid, groups = rest.pop(0).split(":")
                self.become = (int(uid), int(gid), [int(group) for group in groups.split(",") if group])
            elif word == "--folder" and rest:
                self.folder = rest.pop(0)
            else:
                raise ValueError(f"unknown option {word!r}")


def become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Be that user for good. PermissionError when that did not work, or could be undone."""
    if os.geteuid() == 0:
        os.setgroups(list(groups))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise PermissionError(f"cannot become uid {uid}")
    if uid != 0:
        try:
            os.setresuid(0, 0, 0)
        except PermissionError:
            return
        raise PermissionError("root could be had back")


def serve(source: int, target: int, *, read_only: bool = False) -> int:
    """Answer requests from descriptor ``source`` on ``target`` until it ends. The exit status: 0 at a clean end, 1
    otherwise.

    A client that breaks the framing (a packet of no or of more than 256 KiB) is left: nothing after it could be
    understood.
    """
    operations = Operations(read_only=read_only)
    buffer = bytearray()
    greeted = False
    try:
        while True:
            piece = os.read(source, _READ)
            if not piece:
                return 1 if buffer else 0
            buffer += piece
            answers: list[bytes] = []
            while len(buffer) >= 4:
                length = int.from_bytes(buffer[:4], "big")
                if not 1 <= length <= w.MAX_PACKET:
                    return 1
                if len(buffer) < 4 + length:
                    break
                packet = bytes(buffer[4 : 4 + length])
                del buffer[: 4 + length]
                if not greeted:
                    if packet[0] != w.INIT or length < 5:
                        return 1
                    greeted = True
                    answers.append(_greeting())
                    continue
                if length < 5:
                    return 1
                identifier = int.from_bytes(packet[1:5], "big")
                answers.append(operations.answer(packet[0], identifier, w.Packet(packet[5:])))
                if packet[0] == w.READ:
                    # Large answers go out one by one, so that what is held stays small.
                    _send(target, answers)
            _send(target, answers)
    except (BrokenPipeError, ConnectionResetError):
        return 0
    finally:
        operations.close_all()


def _greeting() -> bytes:
    body = w.VERSION.to_bytes(4, "big") + b"".join(w.string(n) + w.string(v) for n, v in ANNOUNCED.items())
    return (1 + len(body)).to_bytes(4, "big") + bytes((w.VERSION_ANSWER,)) + body


def _send(target: int, answers: list[bytes]) -> None:
    view = memoryview(b"".join(answers))
    answers.clear()
    while view:
        view = view[os.write(target, view) :]


def main(words: Sequence[str] | None = None) -> None:
    """The program. Exits with 0 at a clean end, 1 on a broken stream, 2 when it must not serve."""
    try:
        options = Options(sys.argv[1:] if words is None else words)
        if options.become is not None:
            become(*options.become)
        elif os.geteuid() == 0 and os.getuid() != 0:
            raise PermissionError("set-uid start")
        if options.folder is not None:
            os.chdir(options.folder)
    except (ValueError, OSError) as error:
        os.write(2, f"tinyport sftp: error: {error}\n".encode(errors="backslashreplace"))
        raise SystemExit(2) from None
    raise SystemExit(serve(0, 1, read_only=options.read_only))
