"""How a role becomes a process: a bare interpreter that is told its configuration on a memory file.

Never in argv, which everybody on the machine can read. Descriptors: 3 the task (JSON), 4 the ready line. The kernel
ends the process with SIGTERM when the supervisor dies, however it dies.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: ``document``: the configuration for this role, ``source``: where it came from, ``insecure_no_ca_pin``
Task = Mapping[str, Any]

TASK, READY = 3, 4
_MAX_TASK = 4 * 1024 * 1024
# prctl(2)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# Out of the way of the numbers that the new process gets.
_HIGH = 64


def command(module: str = "tinyport.admin.role_process", call: str = "main()") -> list[str]:
    """The command line of a role: told where modules are, since ``-I -S`` (no environment, no ``.pth`` files, not the
    current folder) finds nothing in a virtual environment.
    """
    root = str(Path(__file__).resolve().parent.parent.parent)
    # The folder of the script that was called comes first in sys.path; no module of ours is there.
    scripts = os.path.dirname(os.path.abspath(sys.argv[0]))
    path = [entry for entry in sys.path if os.path.isabs(entry) and entry != scripts]
    if root not in path:
        path.append(root)
    return [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:] = {path!r}; from {module} import *; {call}"]


def spawn_role(role: str, task: Task, argv: list[str] | None = None) -> tuple[int, int]:
    """Start a role's process → its pid, and the descriptor on which its ready line will come. ``argv``: what to run
    instead of this module's ``main``.
    """
    words = argv or command(call="main()")
    ready, ready_child = os.pipe()
    configuration = os.memfd_create(f"tinyport-{role}")
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    high: list[int] = []
    try:
        text = json.dumps({**task, "role": role, "parent": os.getpid()}).encode()
        os.pwrite(configuration, text, 0)
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH) for fd in (configuration, ready_child)]
        pid = os.posix_spawn(
            words[0],
            words,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, high[0], TASK),
                (os.POSIX_SPAWN_DUP2, high[1], READY),
            ],
            # A Ctrl-C at the terminal is for the supervisor, which stops the roles in order.
            setsid=True,
            setsigdef=[signal.SIGPIPE],
            setsigmask=[],
        )
    except BaseException:
        os.close(ready)
        raise
    finally:
        for descriptor in (configuration, ready_child, *high):
            os.close(descriptor)
    return pid, ready


def main() -> None:
    """The first thing a role's process does; ends the process."""
    from tinyport.admin import config_file
    from tinyport.admin.reread import checked
    from tinyport.host.console import report
    from tinyport.start import run_role

    task = json.loads(os.pread(TASK, _MAX_TASK, 0))
    os.close(TASK)
    os.set_inheritable(READY, False)
    name_process(f"tinyport-{task['role']}")
    end_with_parent(task["parent"])
    try:
        config = config_file.check(task["document"], task["source"])
        reread = task.get("reread")
        again = None if reread is None else (reread[0], {**reread[1], "document": task["document"]})
        insecure = bool(task.get("insecure_no_ca_pin"))
        read = None if again is None else lambda: checked(task["role"], again[1])
        status = run_role(task["role"], config, READY, insecure_no_ca_pin=insecure, again=again, read=read)
    except Exception as error:
        status = report(f"tinyport {task['role']}", error, debug=_wants_details(task))
    raise SystemExit(status)


def _wants_details(task: Task) -> bool:
    log = task["document"].get("tinyport", {}).get("log", {})
    return isinstance(log, dict) and log.get("level") == "debug"


def name_process(name: str) -> None:
    """What ``ps -o comm`` and ``top`` show, at most 15 characters."""
    try:
        Path("/proc/self/comm").write_text(name[:15])
    except OSError:
        # No /proc, or a read-only one: the name is a kindness.
        return


def end_with_parent(parent: int) -> None:
    """Have the kernel send us SIGTERM when our parent dies. It lasts through ``exec``."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        # It died before we asked.
        raise SystemExit(1)


def adopt_orphans() -> None:
    """From now on descendants of ours that lose their parent become our children, not init's."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


__all__ = ["main"]
