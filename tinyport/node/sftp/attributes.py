"""Setting what a client wants set of a file: size, owner, permissions, times."""

from __future__ import annotations

import errno
import os
import stat

from tinyport.node.sftp import wire as w

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def apply(target: bytes | int, wanted: w.Attributes) -> None:
    """Set all of it on a path or descriptor. OSError: the last of what failed; the rest was set (as OpenSSH does).

    The owner goes before the permissions: a change of owner takes set-uid bits away.
    """
    owner, permissions, size = wanted.owner, wanted.permissions, wanted.size
    times = _nanoseconds(wanted)
    steps: list[Callable[[], None]] = []
    if size is not None:
        steps.append(lambda: os.truncate(target, size))
    if owner is not None:
        steps.append(lambda: os.chown(target, _number(owner[0]), _number(owner[1])))
    if permissions is not None:
        steps.append(lambda: os.chmod(target, permissions))
    if times is not None:
        steps.append(lambda: os.utime(target, ns=times))
    _all(steps)


def apply_to_link(path: bytes, wanted: w.Attributes) -> None:
    """As ``apply``, on a symbolic link itself (PROTOCOL 4.7). Refused for a size: links have none of their own."""
    if wanted.size is not None:
        raise w.Refused(w.BAD_MESSAGE, "a link has no size to set")
    owner, permissions = wanted.owner, wanted.permissions
    times = _nanoseconds(wanted)
    steps: list[Callable[[], None]] = []
    if owner is not None:
        steps.append(lambda: os.chown(path, _number(owner[0]), _number(owner[1]), follow_symlinks=False))
    if permissions is not None:
        steps.append(lambda: _chmod_link(path, permissions))
    if times is not None:
        steps.append(lambda: os.utime(path, ns=times, follow_symlinks=False))
    _all(steps)


def _chmod_link(path: bytes, permissions: int) -> None:
    # Linux has no permissions of a link, and Python no fchmodat without following. Between look and change the path
    # may become a link, to a file of the same user, who could have named it at once.
    if stat.S_ISLNK(os.lstat(path).st_mode):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    os.chmod(path, permissions)


def _all(steps: list[Callable[[], None]]) -> None:
    failed: OSError | None = None
    for step in steps:
        try:
            step()
        except OSError as error:
            failed = error
    if failed is not None:
        raise failed


def _number(wanted: int) -> int:
    # chown(2): all ones leaves it as it is.
    return -1 if wanted == 0xFFFFFFFF else wanted


def _nanoseconds(wanted: w.Attributes) -> tuple[int, int] | None:
    return None if wanted.times is None else (wanted.times[0] * 10**9, wanted.times[1] * 10**9)
