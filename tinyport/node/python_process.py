"""How the node's processes start each other: bare interpreters, told where their code is. Light: the monitor loads it.

``-I -S``: no environment variables, no user site, no ``.pth`` files (4 MB, and code of others). ``-m`` finds nothing in
a venv that way, so ``-c`` is told the path, and the path is handed on.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import NoReturn

#: what child processes get of our environment; whatever else a session needs is made for it
KEPT = ("PATH", "TZ", "LANG")
# The last without the columns of the source in each code object, which tracebacks underline: 0.2 MB less.
BARE = ("-I", "-S", "-X", "no_debug_ranges")


def search_path() -> list[str]:
    """Where this process finds modules: absolute folders only, our own package's first of those that are not the
    interpreter's.
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = [entry for entry in sys.path if os.path.isabs(entry)]
    return path if root in path else [*path, root]


def package_root() -> str:
    """The folder that ``import tinyport`` needs on a bare interpreter's path."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def arguments(module: str, path: Sequence[str], *, call: str = "main()") -> list[str]:
    """The command line that runs ``module``'s ``call`` on a bare interpreter with ``path`` as its ``sys.path``."""
    code = f"import sys; sys.path[:] = {list(path)!r}; from {module} import main; {call}"
    return [sys.executable, *BARE, "-c", code]


def light_arguments(module: str, *, call: str) -> list[str]:
    """As ``arguments``, with the standard library and our own package alone."""
    code = f"import sys; sys.path.append({package_root()!r}); from {module} import main; {call}"
    return [sys.executable, *BARE, "-c", code]


def environment(more: Sequence[str] = ()) -> dict[str, str]:
    """The environment of a process of ours; ``more``: variables of ours that it gets besides."""
    kept = {name: os.environ[name] for name in (*KEPT, *more) if name in os.environ}
    kept.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return kept


def spawn(argv: Sequence[str], descriptors: Sequence[int], more: Sequence[str] = ()) -> int:
    """Start a process with ``descriptors[0]`` as its fd 3, ``descriptors[1]`` as 4, and so on; standard streams are
    ours but for its input, which is empty. Returns its pid; OSError when it cannot be started.

    Every other descriptor of ours must be close-on-exec, as Python makes them. ``more``: see ``environment``.
    """
    pid = os.fork()
    if pid == 0:
        execute(argv, descriptors, more)
    return pid


def execute(argv: Sequence[str], descriptors: Sequence[int], more: Sequence[str] = ()) -> NoReturn:
    """``spawn`` without a new process: in a child of ours, which ends with status 127 when that cannot be."""
    try:
        # First out of the way of the low numbers, then into place.
        high = [_above(descriptor, 3 + len(descriptors)) for descriptor in descriptors]
        empty = os.open("/dev/null", os.O_RDONLY)
        os.dup2(empty, 0)
        for number, descriptor in enumerate(high, 3):
            os.dup2(descriptor, number)
        _plain_signals()
        os.execve(argv[0], list(argv), environment(more))
    except OSError as error:
        os.write(2, f"tinyport: error: cannot start {argv[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def close_all_but(kept: Collection[int]) -> None:
    """Close every other descriptor of this process."""
    # RLIMIT_NOFILE may be lower than what was opened before it was set.
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                # The listing's own.
                continue


def _above(descriptor: int, least: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)


def _plain_signals() -> None:
    import signal

    # An interpreter ignores SIGPIPE, and exec keeps what is ignored and what is blocked.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def name_process(name: str) -> None:
    """What ``ps`` and ``top`` show (15 characters; prctl would need ctypes, which costs a megabyte)."""
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write(name)
    except OSError:
        # No /proc, or a read-only one: the name is a kindness.
        return
