"""Giving up privileges, for good: becoming an account, and what prctl(2) and unshare(2) take away.

Light: link loads it. ``ctypes`` costs a megabyte; the extension module below it costs 50 kB and is all that a call with
numbers needs.
"""

from __future__ import annotations

import _ctypes
import array
import os

from tinyport.core.errors import OperatorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap

# linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 38, 39
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
# linux/sched.h
NEW_NETWORK, NEW_IPC, NEW_USER = 0x40000000, 0x08000000, 0x10000000
# capability.h knows 41 of them today; the kernel answers EINVAL for one that it does not know.
_CAPABILITIES = 64
# linux/capability.h: _LINUX_CAPABILITY_VERSION_3, which has 64 of them in two words
_CAPABILITY_VERSION = 0x20080522
_RTLD_NOW = 2


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]
    _type_ = "L"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int


def call(name: str, *numbers: int) -> int:
    """A function of the C library with numbers (or addresses) → its int. OSError when that is negative."""
    # None is the program itself, and the C library with it.
    library = _ctypes.dlopen(None, _RTLD_NOW)  # type: ignore[arg-type]
    function = _Function(_ctypes.dlsym(library, name))
    result: int = function(*(_Long(number) for number in numbers))
    if result < 0:
        number = _ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def address_of(buffer: bytearray | mmap.mmap) -> int:
    """Where a writable buffer lies in our memory. It may not move while the number is used."""
    cell = _Int.from_buffer(buffer)
    try:
        return _ctypes.addressof(cell)
    finally:
        # Or the buffer could not be closed.
        del cell


def no_new_privileges() -> None:
    """From now on no ``exec`` gives anything: set-user-id bits and file capabilities do nothing. OSError: not so."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if call("prctl", _PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1:
        raise OSError("no_new_privs did not stay")


def not_dumpable() -> None:
    """No core file, and processes of the same user can neither trace us nor read our memory."""
    call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def drop_bounding_set() -> None:
    """Take every capability out of the bounding and ambient sets. Needs CAP_SETPCAP. OSError: not so."""
    call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(_CAPABILITIES):
        try:
            held = call("prctl", _PR_CAPBSET_READ, capability, 0, 0, 0)
        except OSError:
            # The kernel has no more.
            return
        if held:
            call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)


def no_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets, and with them the ambient one. Takes no privilege. A change
    of user empties them but for what can be inherited; a new user namespace fills them all. OSError: not so.
    """
    header = array.array("I", [_CAPABILITY_VERSION, 0])
    sets = array.array("I", [0] * 6)
    call("capset", header.buffer_info()[0], sets.buffer_info()[0])


def unshare(flags: int) -> None:
    """Namespaces of our own (``NEW_*``). OSError when the system does not let us."""
    call("unshare", flags)


def become(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    """Become an account for good: groups, gid, uid, in this order. OperatorError unless there is no way back."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid) or set(os.getgroups()) != set(groups):
        raise OperatorError("the privileges were not dropped")
    if uid != 0:
        try:
            os.setresuid(-1, 0, -1)
        except PermissionError:
            return
        raise OperatorError("the privileges could be taken back")
