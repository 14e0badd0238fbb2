"""Which system calls a process may make from now on: seccomp(2) with a filter that is put together here.

A filter is a list of what is allowed. Everything else answers ENOSYS, "no such system call", which C libraries know how
to live with, so a newer libc that tries a newer call first goes on to the older one.
"""

from __future__ import annotations

import array
import errno
import struct
from collections.abc import Mapping

from tinyport.host import privileges

#: all of these must hold: the lower 32 bits of argument ``number``, and ``mask``, are ``value``
Conditions = tuple[tuple[int, int, int], ...]
#: number of a system call → what it may be called with, one of them; none: with anything
Rules = Mapping[int, tuple[Conditions, ...]]

ALL_BITS = 0xFFFFFFFF

# linux/seccomp.h
_SET_MODE_FILTER = 1
_FLAG_TSYNC, _FLAG_SPEC_ALLOW = 1, 4
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE = 0x00050000 | errno.ENOSYS

# linux/bpf_common.h
_LOAD, _JUMP_EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
# struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def assemble(architecture: int, rules: Rules) -> bytes:
    """The filter's program (struct sock_filter[]) for AUDIT_ARCH ``architecture``, little-endian.

    A call made in another architecture's way (32 bits on a machine of 64), whose numbers mean something else, ends the
    process.
    """
    parts = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, architecture, if_true=1),
        _instruction(_RETURN, KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    for number, alternatives in rules.items():
        block = b"".join(_alternative(conditions) for conditions in alternatives)
        block += _instruction(_RETURN, REFUSE if alternatives else ALLOW)
        parts.append(_instruction(_JUMP_EQUAL, number, if_false=len(block) // 8))
        parts.append(block)
    parts.append(_instruction(_RETURN, REFUSE))
    return b"".join(parts)


def _alternative(conditions: Conditions) -> bytes:
    """Returns ALLOW when all conditions hold, else goes on after itself."""
    code = _instruction(_RETURN, ALLOW)
    for argument, mask, value in reversed(conditions):
        test = _instruction(_LOAD, _ARGUMENTS + 8 * argument)
        if mask != ALL_BITS:
            test += _instruction(_AND, mask)
        code = test + _instruction(_JUMP_EQUAL, value, if_false=len(code) // 8) + code
    return code


def install(program: bytes, seccomp: int) -> None:
    """From now on, for good, and for all threads. ``seccomp``: that call's number. Takes no_new_privs.

    OSError: the system cannot.
    """
    code = array.array("B", program)
    # struct sock_fprog: unsigned short len; struct sock_filter *filter
    told = array.array("B", struct.pack("HP", len(program) // 8, code.buffer_info()[0]))
    address = told.buffer_info()[0]
    try:
        # Kernels before 5.16 would also turn off speculation of stores, which costs every process that has a filter a
        # few percent and is meant for those that run a stranger's code inside of theirs.
        failed = privileges.call("syscall", seccomp, _SET_MODE_FILTER, _FLAG_TSYNC | _FLAG_SPEC_ALLOW, address)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Before 4.17 there was no such flag.
        failed = privileges.call("syscall", seccomp, _SET_MODE_FILTER, _FLAG_TSYNC, address)
    if failed:
        raise OSError(errno.EBUSY, f"thread {failed} cannot have the filter")
