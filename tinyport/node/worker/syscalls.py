"""What a worker asks of the kernel once it serves: to move bytes on what it was given, memory, and the time.

No call here opens, makes, connects, starts, traces or signals anything. Where a call can do more than a worker needs,
its arguments are part of the rule. Numbers: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h,
arch/arm/tools/syscall.tbl.
"""

from __future__ import annotations

import os
import sys

from tinyport.host.syscall_filter import ALL_BITS, Conditions, Rules, assemble, install

#: linux/audit.h
X86_64, AARCH64, ARM = 0xC000003E, 0xC00000B7, 0x40000028

#: name → number on x86_64, aarch64, arm; None where it does not exist. The busiest first.
CALLS: dict[str, tuple[int | None, int | None, int | None]] = {
    "epoll_wait": (232, None, 252),
    "epoll_pwait": (281, 22, 346),
    "epoll_pwait2": (441, 441, 441),
    "sendto": (44, 206, 290),
    "recvfrom": (45, 207, 292),
    "send": (None, None, 289),
    "recv": (None, None, 291),
    "read": (0, 63, 3),
    "write": (1, 64, 4),
    "sendmsg": (46, 211, 296),
    "recvmsg": (47, 212, 297),
    "writev": (20, 66, 146),
    "readv": (19, 65, 145),
    "epoll_ctl": (233, 21, 251),
    "getrandom": (318, 278, 384),
    "getpid": (39, 172, 20),
    "clock_gettime": (228, 113, 263),
    "clock_gettime64": (None, None, 403),
    "futex": (202, 98, 240),
    "futex_time64": (None, None, 422),
    "close": (3, 57, 6),
    "poll": (7, None, 168),
    "ppoll": (271, 73, 336),
    "ppoll_time64": (None, None, 414),
    "select": (23, None, 142),
    "pselect6": (270, 72, 335),
    "pselect6_time64": (None, None, 413),
    "epoll_create1": (291, 20, 357),
    "shutdown": (48, 210, 293),
    "getsockname": (51, 204, 286),
    "getpeername": (52, 205, 287),
    "getsockopt": (55, 209, 295),
    "setsockopt": (54, 208, 294),
    "socketpair": (53, 199, 288),
    "fcntl": (72, 25, 55),
    "fcntl64": (None, None, 221),
    "ioctl": (16, 29, 54),
    "fstat": (5, 80, 108),
    "fstat64": (None, None, 197),
    "newfstatat": (262, 79, 327),
    "statx": (332, 291, 397),
    "lseek": (8, 62, 19),
    "_llseek": (None, None, 140),
    "mmap": (9, 222, None),
    "mmap2": (None, None, 192),
    "mprotect": (10, 226, 125),
    "munmap": (11, 215, 91),
    "mremap": (25, 216, 163),
    "brk": (12, 214, 45),
    "madvise": (28, 233, 220),
    "clock_getres": (229, 114, 264),
    "clock_getres_time64": (None, None, 406),
    "gettimeofday": (96, 169, 78),
    "time": (201, None, None),
    "nanosleep": (35, 101, 162),
    "clock_nanosleep": (230, 115, 265),
    "clock_nanosleep_time64": (None, None, 407),
    "rt_sigreturn": (15, 139, 173),
    "sigreturn": (None, None, 119),
    "rt_sigprocmask": (14, 135, 175),
    "rt_sigaction": (13, 134, 174),
    "sigaltstack": (131, 132, 186),
    "restart_syscall": (219, 128, 0),
    "sched_yield": (24, 124, 158),
    "membarrier": (324, 283, 389),
    "gettid": (186, 178, 224),
    "getuid": (102, 174, 199),
    "geteuid": (107, 175, 201),
    "getgid": (104, 176, 200),
    "getegid": (108, 177, 202),
    "getrusage": (98, 165, 77),
    "sysinfo": (99, 179, 116),
    "uname": (63, 160, 122),
    "sched_getaffinity": (204, 123, 242),
    "exit": (60, 93, 1),
    "exit_group": (231, 94, 248),
}
_SECCOMP = {X86_64: 317, AARCH64: 277, ARM: 383}
_COLUMNS = (X86_64, AARCH64, ARM)


def _one_of(argument: int, *values: int) -> tuple[Conditions, ...]:
    return tuple(((argument, ALL_BITS, value),) for value in values)


def _options(level: int, *names: int) -> tuple[Conditions, ...]:
    return tuple(((1, ALL_BITS, level), (2, ALL_BITS, name)) for name in names)


# Memory is written or executed, never both: no code but what was loaded before.
_NO_EXEC: tuple[Conditions, ...] = (((2, 0x4, 0),),)
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. Not F_SETOWN, which has the kernel send signals.
_FCNTL = _one_of(1, 0, 1, 2, 3, 4, 1030)

#: name → what it may be called with
NARROWED: dict[str, tuple[Conditions, ...]] = {
    # SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE; TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT. Not SO_LINGER: who
    # closes a lingering socket last waits, and that is the keeper, which has a duplicate.
    "setsockopt": _options(1, 7, 8, 9) + _options(6, 1, 4, 5, 6),
    # asyncio wakes itself through one. AF_UNIX and SOCK_STREAM: datagrams could be addressed to others.
    "socketpair": (((0, ALL_BITS, 1), (1, 0xF, 1)),),
    "fcntl": _FCNTL,
    "fcntl64": _FCNTL,
    # TCGETS (isatty), TIOCGWINSZ, TIOCSWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Not TIOCSTI, FIOSETOWN, FIOASYNC.
    "ioctl": _one_of(1, 0x5401, 0x5413, 0x5414, 0x541B, 0x5421, 0x5450, 0x5451),
    # AT_EMPTY_PATH: it is how fstat is spelt now. Where the root is not empty, paths are nobody's business.
    "newfstatat": _one_of(3, 0x1000),
    "statx": (((2, 0x1000, 0x1000),),),
    "mmap": _NO_EXEC,
    "mmap2": _NO_EXEC,
    "mprotect": _NO_EXEC,
}


def rules(architecture: int) -> Rules:
    column = _COLUMNS.index(architecture)
    found: dict[int, tuple[Conditions, ...]] = {}
    for name, numbers in CALLS.items():
        number = numbers[column]
        if number is not None:
            found[number] = NARROWED.get(name, ())
    return found


def architecture(machine: str, word: int) -> int | None:
    """AUDIT_ARCH of this process: ``machine`` as uname(2) says, which may be wider than we are; ``word``: our bits."""
    if word == 64:
        return {"x86_64": X86_64, "aarch64": AARCH64}.get(machine)
    # Raspberry Pi OS runs 32-bit programs on a 64-bit kernel.
    return ARM if machine.startswith("armv") or machine == "aarch64" else None


def restrict() -> bool:
    """Allow this process what a worker needs and nothing else, for good. False: this system cannot, or we do not know
    its numbers.
    """
    here = architecture(os.uname().machine, 64 if sys.maxsize > 2**32 else 32)
    if here is None or sys.byteorder != "little":
        return False
    try:
        install(assemble(here, rules(here)), _SECCOMP[here])
    except OSError:
        return False
    return True
