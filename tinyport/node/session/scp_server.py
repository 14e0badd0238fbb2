"""The far half of scp's old protocol, ``scp -t`` and ``scp -f``, for machines that have no scp of their own.

Clients before OpenSSH 9, dropbear's and ``scp -O`` start it by name. It is the user's own process, started by the
user's own shell, which has expanded wildcards already; nothing here is trusted by anybody else.

The protocol has no document but rcp's code: records ``C<mode> <size> <name>`` with the file behind it, ``D<mode> 0
<name>`` ... ``E`` around a folder, ``T<mtime> 0 <atime> 0`` before either; each is answered by a zero byte, or by 1 (2:
and that is the end) and a line of text.
"""

from __future__ import annotations

import getopt
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PIECE = 128 * 1024
# A record is a name and two numbers.
_MAX_LINE = 8 * 1024
# Folders in folders. Each holds a descriptor's worth of path; nobody's are this deep.
_MAX_DEPTH = 256


class Broken(Exception):
    """The other end has left, or says what the protocol does not have: there is no going on."""


class Wire:
    """Records, answers and files on two descriptors. ``failed`` counts what was not copied."""

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._ahead = b""
        self.failed = 0

    def line(self) -> bytes | None:
        """One record without its end; None when there are no more."""
        while b"\n" not in self._ahead:
            if len(self._ahead) > _MAX_LINE:
                raise Broken("a record that is too long")
            piece = os.read(self._source, 4096)
            if not piece:
                if self._ahead:
                    raise Broken("the connection was lost")
                return None
            self._ahead += piece
        line, _, self._ahead = self._ahead.partition(b"\n")
        return line

    def answered(self) -> bool:
        """Read the other end's answer. False when it has failed at its half."""
        code = self._ahead[:1] or os.read(self._source, 1)
        self._ahead = self._ahead[1:]
        if code == b"\0":
            return True
        if code not in (b"\1", b"\2"):
            raise Broken("the connection was lost")
        self.line()
        self.failed += 1
        if code == b"\2":
            raise Broken("the other end gave up")
        return False

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._target, view) :]

    def complain(self, path: bytes, reason: str) -> None:
        """Say that something is not copied; it goes on with the next."""
        self.failed += 1
        text = f"scp: {path.decode(errors='backslashreplace')}: {reason}".replace("\n", "\\n")
        self.send(b"\1" + text.encode(errors="backslashreplace") + b"\n")

    def take(self, size: int, into: int) -> OSError | None:
        """``size`` bytes into a descriptor. They are read to their end even when they cannot be written."""
        failed = None
        while size:
            piece = self._ahead[:size] or os.read(self._source, min(size, _PIECE))
            self._ahead = self._ahead[len(piece) :] if self._ahead else b""
            if not piece:
                raise Broken("the connection was lost")
            size -= len(piece)
            try:
                view = memoryview(piece)
                while view and failed is None:
                    view = view[os.write(into, view) :]
            except OSError as error:
                failed = error
        return failed

    def give(self, size: int, out_of: int) -> OSError | None:
        """``size`` bytes out of a descriptor: with zeros for what cannot be read, for so many were announced."""
        failed = None
        while size:
            piece = b""
            if failed is None:
                try:
                    piece = os.read(out_of, min(size, _PIECE))
                    if not piece:
                        failed = OSError(0, "the file became shorter")
                except OSError as error:
                    failed = error
            piece = piece or bytes(min(size, _PIECE))
            self.send(piece)
            size -= len(piece)
        return failed


def reason(error: OSError) -> str:
    return error.strerror or str(error)


class Sender:
    """``scp -f``."""

    def __init__(self, wire: Wire, *, recursive: bool, preserve: bool) -> None:
        self._wire = wire
        self._recursive = recursive
        self._preserve = preserve

    def run(self, paths: Iterable[bytes]) -> None:
        self._wire.answered()
        for path in paths:
            self._one(path, os.path.basename(path.rstrip(b"/")) or b".", 0)

    def _one(self, path: bytes, name: bytes, depth: int) -> None:
        wire = self._wire
        try:
            if b"\n" in name:
                raise OSError(0, "its name has a line end, which this protocol cannot say (use sftp)")
            # NONBLOCK: a FIFO must not hold everything up.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            wire.complain(path, reason(error))
            return
        try:
            state = os.fstat(descriptor)
            if stat.S_ISDIR(state.st_mode) and self._recursive and depth < _MAX_DEPTH:
                self._folder(path, name, state, depth)
            elif stat.S_ISREG(state.st_mode):
                self._file(path, name, state, descriptor)
            else:
                wire.complain(path, "not a regular file")
        finally:
            os.close(descriptor)

    def _announce(self, record: bytes, state: os.stat_result) -> bool:
        wire = self._wire
        if self._preserve:
            wire.send(b"T%d 0 %d 0\n" % (max(int(state.st_mtime), 0), max(int(state.st_atime), 0)))
            if not wire.answered():
                return False
        wire.send(record)
        return wire.answered()

    def _file(self, path: bytes, name: bytes, state: os.stat_result, descriptor: int) -> None:
        wire = self._wire
        if not self._announce(b"C%04o %d %s\n" % (stat.S_IMODE(state.st_mode), state.st_size, name), state):
            return
        failed = wire.give(state.st_size, descriptor)
        if failed is None:
            wire.send(b"\0")
        else:
            wire.complain(path, reason(failed))
        wire.answered()

    def _folder(self, path: bytes, name: bytes, state: os.stat_result, depth: int) -> None:
        try:
            entries = os.scandir(path)
        except OSError as error:
            self._wire.complain(path, reason(error))
            return
        if self._announce(b"D%04o 0 %s\n" % (stat.S_IMODE(state.st_mode), name), state):
            with entries:
                for entry in entries:
                    self._one(os.path.join(path, entry.name), entry.name, depth + 1)
            self._wire.send(b"E\n")
            self._wire.answered()
        entries.close()


class Receiver:
    """``scp -t``."""

    def __init__(self, wire: Wire, *, recursive: bool, preserve: bool) -> None:
        self._wire = wire
        self._recursive = recursive
        self._preserve = preserve
        self._umask = os.umask(0)
        os.umask(self._umask)

    def run(self, target: bytes, *, must_be_folder: bool) -> None:
        if must_be_folder and not os.path.isdir(target):
            self._wire.complain(target, "not a directory")
            return
        self._wire.send(b"\0")
        self._records(target, 0)

    def _records(self, target: bytes, depth: int) -> None:
        """Until the end of the folder, or of everything."""
        wire = self._wire
        times: tuple[int, int] | None = None
        while (line := wire.line()) is not None:
            kind, rest = line[:1], line[1:]
            if kind in (b"\1", b"\2"):
                # The other end says what it could not send.
                wire.failed += 1
                if kind == b"\2":
                    return
            elif kind == b"E" and depth:
                wire.send(b"\0")
                return
            elif kind == b"T":
                times = _times(rest)
                wire.send(b"\0")
            elif kind in (b"C", b"D"):
                mode, size, name = _record(rest)
                path = os.path.join(target, name) if os.path.isdir(target) else target
                if kind == b"C":
                    self._file(path, mode, size, times)
                else:
                    self._folder(path, mode, times, depth)
                times = None
            else:
                raise Broken("a record that does not exist")
        if depth:
            raise Broken("the connection was lost")

    def _file(self, path: bytes, mode: int, size: int, times: tuple[int, int] | None) -> None:
        wire = self._wire
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(path, flags, mode & ~self._umask)
        except OSError as error:
            # Not answered by a zero: the other end goes on with its next record.
            wire.complain(path, reason(error))
            return
        try:
            wire.send(b"\0")
            failed = wire.take(size, descriptor)
            try:
                if failed is None and stat.S_ISREG(os.fstat(descriptor).st_mode):
                    os.ftruncate(descriptor, size)
                if failed is None and self._preserve:
                    os.fchmod(descriptor, mode)
                    if times is not None:
                        os.utime(descriptor, times)
            except OSError as error:
                failed = error
        finally:
            os.close(descriptor)
        wire.answered()
        if failed is None:
            wire.send(b"\0")
        else:
            wire.complain(path, reason(failed))

    def _folder(self, path: bytes, mode: int, times: tuple[int, int] | None, depth: int) -> None:
        wire = self._wire
        made = False
        try:
            if not self._recursive or depth >= _MAX_DEPTH:
                raise OSError(0, "a folder that was not asked for")
            if not os.path.isdir(path):
                # Filled before it gets the mode that it shall have, which may forbid that.
                os.mkdir(path, mode | stat.S_IRWXU)
                made = True
        except OSError as error:
            wire.complain(path, reason(error))
            return
        wire.send(b"\0")
        self._records(path, depth + 1)
        try:
            if times is not None and self._preserve:
                os.utime(path, times)
            if self._preserve:
                os.chmod(path, mode)
            elif made:
                os.chmod(path, mode & ~self._umask)
        except OSError as error:
            wire.complain(path, reason(error))


def _times(text: bytes) -> tuple[int, int]:
    """``<mtime> <microseconds> <atime> <microseconds>`` → (atime, mtime)."""
    words = text.split()
    if len(words) != 4 or not all(word.isdigit() and len(word) < 12 for word in words):
        raise Broken("times that are none")
    return int(words[2]), int(words[0])


def _record(text: bytes) -> tuple[int, int, bytes]:
    """``<mode> <size> <name>``. The name is one: a client's word for another place is not taken."""
    words = text.split(b" ", 2)
    if len(words) != 3 or not words[1].isdigit() or len(words[1]) > 18 or len(words[0]) != 4:
        raise Broken("a record that cannot be read")
    try:
        mode = int(words[0], 8)
    except ValueError:
        raise Broken("a mode that is none") from None
    name = words[2]
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise Broken("a name that is no name of a file")
    return mode & 0o7777, int(words[1]), name


def main(words: Sequence[str] | None = None) -> None:
    """The program. Exits with 0 when everything was copied, 1 otherwise."""
    try:
        options, paths = getopt.getopt(list(sys.argv[1:] if words is None else words), "dfprtvq")
    except getopt.GetoptError as error:
        raise SystemExit(f"scp: {error.msg}") from None
    given = {option for option, _ in options}
    names = [os.fsencode(path) for path in paths]
    wire = Wire(0, 1)
    shared = {"recursive": "-r" in given, "preserve": "-p" in given}
    try:
        if "-f" in given and "-t" not in given and names:
            Sender(wire, **shared).run(names)
        elif "-t" in given and "-f" not in given and len(names) == 1:
            Receiver(wire, **shared).run(names[0], must_be_folder="-d" in given)
        else:
            raise SystemExit("scp: this machine has no scp of its own; copy from the other side")
    except (Broken, BrokenPipeError) as error:
        wire.failed += 1
        if isinstance(error, Broken):
            os.write(2, f"scp: {error}\n".encode())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(1 if wire.failed else 0)
