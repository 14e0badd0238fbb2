"""What a process that faces the network gives up for good. Light: link loads it.

Link keeps files and the network, because it dials; a worker keeps its sockets and nothing else: no file can be opened,
nowhere can be connected to, nothing can be started.
"""

from __future__ import annotations

import os
import resource
import stat

from tinyport.core.errors import OperatorError
from tinyport.host import privileges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: where a folder can be made for a moment; the first that works is taken
PLACES = ("/run", "/dev/shm", "/tmp", "/var/tmp")  # noqa: S108 - removed before it is used
NO_NETWORK, EMPTY_ROOT = "a network namespace of its own", "an empty root"
#: ``worker.syscalls`` is what sets it, once everything else is done
FILTER = "a filter of system calls"


def shed(user: Mapping[str, object] | None) -> None:
    """Become ``user`` ({"uid", "gid"}) with no capability, no way to get one, and no core file; None: we had nothing.

    OperatorError or OSError when it did not work: then nothing may be served.
    """
    # Other people's keystrokes and keys are in our memory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if user is not None:
        privileges.drop_bounding_set()
        privileges.become(int(str(user["uid"])), int(str(user["gid"])), ())
    else:
        _drop_what_a_namespace_gave()
    privileges.no_capabilities()
    privileges.no_new_privileges()
    privileges.not_dumpable()


def _drop_what_a_namespace_gave() -> None:
    """A user namespace of our own comes with every capability, over itself; so may whoever started us, with some."""
    try:
        privileges.drop_bounding_set()
    except PermissionError:
        # We have no right to, because we have no capability: no_new_privs keeps it so.
        return


def enclose(user: Mapping[str, object] | None, *, memory: int | None) -> list[str]:
    """``shed``, and besides no file system, no network, no process and no thread. ``memory``: bytes of data at most.

    Everything that is needed later must be loaded. Returns what this system does not allow (``NO_NETWORK``,
    ``EMPTY_ROOT``): a node that has everything returns nothing.
    """
    missing = []
    # With privileges the namespace is ours to make. Without, a user namespace gives the right to the others.
    flags = privileges.NEW_NETWORK | privileges.NEW_IPC | (0 if user is not None else privileges.NEW_USER)
    try:
        privileges.unshare(flags)
    except OSError:
        missing.append(NO_NETWORK)
    if not _empty_root():
        missing.append(EMPTY_ROOT)
    _limit(memory)
    shed(user)
    return missing


def _empty_root() -> bool:
    """Make an empty folder our root, and remove it: in a folder that is gone nothing can be made."""
    for place in PLACES:
        path = f"{place}/tinyport-worker-{os.getpid()}"
        try:
            os.mkdir(path, 0o500)
        except OSError:
            continue
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        os.rmdir(path)
        try:
            os.fchdir(folder)
            os.chroot(".")
        except OSError:
            # No right to, or a kernel that does not want it.
            os.chdir("/")
            return False
        finally:
            os.close(folder)
        os.chdir("/")
        _no_way_out()
        return True
    return False


def _no_way_out() -> None:
    """A folder that is still open would lead out of the new root. OperatorError when there is one."""
    # At this moment a worker has a handful of descriptors, the lowest.
    for descriptor in range(1024):
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode):
            raise OperatorError(f"a folder is still open as descriptor {descriptor}")


def _limit(memory: int | None) -> None:
    """Neither a process nor a thread is needed from here on, nor a file."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    if not stat.S_ISREG(os.fstat(2).st_mode):
        # Our log lines; where they go to a file, they must be let.
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
