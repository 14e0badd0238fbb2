"""The sftp server: version 3 with OpenSSH's extensions on standard input and output, as the user.

The keeper starts it with ``--become uid:gid``, in the groups that it shall have: as root it imports its code (which the
user need not be able to read), enters the session's root if it has one, and becomes the user before it reads a byte.
It never serves as root unless uid 0 was asked for.
"""

from __future__ import annotations

import os
import sys

from tinyport.node.sftp.operations import Operations
from tinyport.node.sftp.owners import GROUP, USER, Owners, name_of
from tinyport.node.sftp.requests import NAMES, Requests
from tinyport.node.sftp.root import UnsafeRoot, enter
from tinyport.node.sftp.stream import serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Options:
    """The parsed command line: ValueError when it is not one of ours.

    ``--become UID:GID[:GROUP,...]`` (without groups it stays in those it has); ``--root FOLDER`` (needs --become);
    ``--home FOLDER`` where the session begins; ``--folder FOLDER`` to go from there; ``--umask OCTAL``;
    ``--read-only``; ``--allow NAME,...`` and ``--deny NAME,...`` requests by sftp-server(8)'s names.
    """

    __slots__ = ("allow", "become", "deny", "folder", "home", "read_only", "root", "umask")

    def __init__(self, words: Sequence[str]) -> None:
        self.become: tuple[int, int, list[int] | None] | None = None
        self.root: str | None = None
        self.home: str | None = None
        self.folder: str | None = None
        self.umask: int | None = None
        self.read_only = False
        self.allow: frozenset[str] | None = None
        self.deny: frozenset[str] = frozenset()
        rest = iter(words)
        for word in rest:
            self._option(word, rest)
        if self.root is not None and (self.become is None or self.become[0] == 0):
            # Root is not held by a root of its own.
            raise ValueError("--root needs --become with a user who is not root")

    def _option(self, word: str, rest: Iterator[str]) -> None:
        if word == "--read-only":
            self.read_only = True
            return
        value = next(rest, None)
        if value is None:
            raise ValueError(f"option {word!r} is unknown, or lacks its value")
        if word == "--become":
            uid, gid, *groups = value.split(":", 2)
            listed = [int(group) for group in groups[0].split(",") if group] if groups else None
            self.become = (int(uid), int(gid), listed)
        elif word == "--root":
            self.root = value
        elif word == "--home":
            self.home = value
        elif word == "--folder":
            self.folder = value
        elif word == "--umask":
            self.umask = int(value, 8)
        elif word == "--allow":
            self.allow = _names(value)
        elif word == "--deny":
            self.deny = _names(value)
        else:
            raise ValueError(f"unknown option {word!r}")


def _names(text: str) -> frozenset[str]:
    names = frozenset(text.split(","))
    if unknown := names - NAMES:
        raise ValueError(f"unknown request {min(unknown)!r}")
    return names


def become(uid: int, gid: int, groups: Sequence[int] | None) -> None:
    """Be that user for good; ``groups`` None: in those there are. PermissionError when it did not work, or could be
    undone.
    """
    # Who is that user already may lack the right to say so again (root in a container).
    if groups is not None and set(os.getgroups()) != set(groups):
        os.setgroups(list(groups))
    if os.geteuid() == 0:
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


def _prepare(options: Options) -> Requests:
    """Be who, be where, and may what the options say."""
    # A descriptor to a folder outside would be a way out of a root, and any other is nobody's here.
    os.closerange(3, 65536)
    owners = Owners()
    if options.become is not None:
        uid, gid, groups = options.become
        if options.root is not None:
            # Asked before, since inside there is nobody to ask.
            known = {(USER, uid): name_of(USER, uid), (USER, 0): b"root", (GROUP, 0): b"root"}
            known.update({(GROUP, number): name_of(GROUP, number) for number in {gid, *(groups or os.getgroups())}})
            owners = Owners(known)
            enter(options.root)
        become(uid, gid, groups)
    elif os.geteuid() == 0 or os.getuid() == 0:
        raise PermissionError("will not serve as root without --become")
    if options.umask is not None:
        os.umask(options.umask)
    _go(options.home, quiet=options.root is not None)
    _go(options.folder, quiet=False)
    operations = Operations(read_only=options.read_only, start=os.getcwdb(), owners=owners)
    return Requests(operations, allowed=options.allow, denied=options.deny)


def _go(folder: str | None, *, quiet: bool) -> None:
    """Stand in ``folder``, or stay and say why, as sftp-server does: somebody must be able to repair a home. In a
    root there is often no home (``quiet``).
    """
    if folder is None:
        return
    try:
        os.chdir(folder)
    except OSError as error:
        if not quiet:
            _say(f"could not change to {folder}: {error.strerror}")


def _say(text: str) -> None:
    os.write(2, f"tinyport sftp: {text}\n".encode(errors="backslashreplace"))


def main(words: Sequence[str] | None = None) -> None:
    """The program. Exits with 0 at a clean end, 1 on a broken stream, 2 when it must not serve."""
    try:
        requests = _prepare(Options(sys.argv[1:] if words is None else words))
    except (ValueError, OSError, UnsafeRoot) as error:
        _say(f"error: {error}")
        raise SystemExit(2) from None
    try:
        status = serve(0, 1, requests)
    except KeyboardInterrupt:
        # The client's "signal INT" (RFC 4254 section 6.9), said as a shell says it.
        status = 130
    raise SystemExit(status)
