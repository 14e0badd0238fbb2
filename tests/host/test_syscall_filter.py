"""The filter's programs, run here as the kernel would run them, for machines that we are not on, too."""

from __future__ import annotations

import errno
import struct

import pytest

from tinyport.host.syscall_filter import ALL_BITS, ALLOW, KILL, REFUSE, Rules, assemble
from tinyport.node.worker.syscalls import AARCH64, ARM, CALLS, NARROWED, X86_64, architecture, rules

REFUSED = REFUSE
#: (x86_64, aarch64, arm); None: does not exist there
FORBIDDEN = {
    "open": (2, None, 5),
    "openat": (257, 56, 322),
    "openat2": (437, 437, 437),
    "socket": (41, 198, 281),
    "connect": (42, 203, 283),
    "bind": (49, 200, 282),
    "listen": (50, 201, 284),
    "accept4": (288, 242, 366),
    "execve": (59, 221, 11),
    "execveat": (322, 281, 387),
    "fork": (57, None, 2),
    "vfork": (58, None, 190),
    "clone": (56, 220, 120),
    "clone3": (435, 435, 435),
    "ptrace": (101, 117, 26),
    "process_vm_readv": (310, 270, 376),
    "kill": (62, 129, 37),
    "tgkill": (234, 131, 268),
    "pidfd_open": (434, 434, 434),
    "mount": (165, 40, 21),
    "chroot": (161, 51, 61),
    "unshare": (272, 97, 337),
    "setns": (308, 268, 375),
    "keyctl": (250, 219, 311),
    "bpf": (321, 280, 386),
    "io_uring_setup": (425, 425, 425),
    "userfaultfd": (323, 282, 388),
    "perf_event_open": (298, 241, 364),
    "memfd_create": (319, 279, 385),
    "prctl": (157, 167, 172),
    "setuid": (105, 146, 213),
    "prlimit64": (302, 261, 369),
}
COLUMNS = (X86_64, AARCH64, ARM)


def run(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the program returns for a call. The six instructions that we use, and the kernel's own checks of them."""
    code = list(struct.iter_unpack("=HBBI", program))
    data = struct.pack("<iIQ6Q", number, architecture, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    at, value = 0, 0
    while True:
        operation, if_true, if_false, operand = code[at]
        at += 1
        if operation == 0x20:
            assert operand % 4 == 0
            (value,) = struct.unpack_from("<I", data, operand)
        elif operation == 0x54:
            value &= operand
        elif operation == 0x15:
            at += if_true if value == operand else if_false
        else:
            assert operation == 0x06
            assert isinstance(operand, int)
            return operand


@pytest.mark.parametrize("column", range(3))
def test_what_a_worker_may_and_may_not(column: int) -> None:
    here = COLUMNS[column]
    program = assemble(here, rules(here))
    assert len(program) // 8 <= 4096  # BPF_MAXINSNS
    for name, numbers in CALLS.items():
        number = numbers[column]
        if number is not None and name not in NARROWED:
            assert run(program, here, number) == ALLOW, name
    for name, numbers in FORBIDDEN.items():
        number = numbers[column]
        if number is not None:
            assert run(program, here, number) == REFUSED, name
    assert run(program, here, -1) == REFUSED
    # The same numbers in another architecture's way mean something else.
    assert {run(program, other, CALLS["read"][column] or 0) for other in (*COLUMNS, 0x40000003) if other != here} == {
        KILL
    }


def test_calls_of_the_other_abi_of_x86_64_are_not_there() -> None:
    assert run(assemble(X86_64, rules(X86_64)), X86_64, 0x40000000 | 1) == REFUSED


@pytest.mark.parametrize("column", range(3))
def test_arguments_count(column: int) -> None:
    here = COLUMNS[column]
    program = assemble(here, rules(here))

    def judged(name: str, *arguments: int) -> bool:
        number = CALLS[name][column]
        assert number is not None
        return run(program, here, number, *arguments) == ALLOW

    assert judged("setsockopt", 5, 6, 1)  # TCP_NODELAY
    assert not judged("setsockopt", 5, 1, 13)  # SO_LINGER
    assert not judged("setsockopt", 5, 1, 26)  # SO_ATTACH_FILTER
    assert not judged("setsockopt", 5, 6, 7)
    assert judged("socketpair", 1, 1 | 0x80800)
    assert not judged("socketpair", 1, 2)
    assert not judged("socketpair", 16, 1)
    assert judged("fcntl", 5, 4, 0x800)
    assert not judged("fcntl", 5, 8, 1)  # F_SETOWN
    assert judged("ioctl", 5, 0x5414)
    assert not judged("ioctl", 5, 0x5412)  # TIOCSTI
    assert judged("mprotect", 0, 4096, 3)
    assert not judged("mprotect", 0, 4096, 5)
    assert not judged("mmap2" if here == ARM else "mmap", 0, 4096, 7, 0x22)
    assert judged("newfstatat", 5, 0, 0, 0x1000)
    assert not judged("newfstatat", 2**32 - 100, 0, 0, 0)


def test_alternatives_and_masks() -> None:
    table: Rules = {7: (((0, ALL_BITS, 1), (1, 0xF0, 0x20)), ((5, ALL_BITS, 9),))}
    program = assemble(X86_64, table)
    found = {
        arguments: run(program, X86_64, 7, *arguments)
        for arguments in [(1, 0x2F), (1, 0x3F), (2, 0x20), (2, 0, 0, 0, 0, 9), (1, 0x20, 0, 0, 0, 9)]
    }
    assert list(found.values()) == [ALLOW, REFUSED, REFUSED, ALLOW, ALLOW]
    assert run(program, X86_64, 8) == REFUSED
    assert REFUSED & 0xFFFF == errno.ENOSYS


@pytest.mark.parametrize(
    ("machine", "word", "expected"),
    [
        ("x86_64", 64, X86_64),
        ("aarch64", 64, AARCH64),
        ("aarch64", 32, ARM),
        ("armv7l", 32, ARM),
        ("armv6l", 32, ARM),
        ("x86_64", 32, None),
        ("mips", 32, None),
        ("riscv64", 64, None),
    ],
)
def test_which_numbers_are_ours(machine: str, word: int, expected: int | None) -> None:
    assert architecture(machine, word) == expected


def test_no_number_stands_for_two_calls() -> None:
    for column in range(3):
        numbers = [numbers[column] for numbers in CALLS.values() if numbers[column] is not None]
        assert len(numbers) == len(set(numbers))
    assert NARROWED.keys() <= CALLS.keys()
