"""A role for the supervisor's tests: does what its task says. Run as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sys

from tinyport.admin.role_process import READY, TASK, end_with_parent


def main() -> None:
    """``task["lines"]``: a file that gets a line for what happens here; ``task["does"]``: how this role behaves."""
    task = json.loads(os.pread(TASK, 1 << 20, 0))
    if task.get("guarded", True):
        end_with_parent(task["parent"])
    name, does = task["role"], task["does"]

    def note(what: str) -> None:
        with open(task["lines"], "a") as lines:
            lines.write(f"{name} {what} {os.getpid()}\n")

    def stop(*_: object) -> None:
        note("stopped")
        sys.exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if does == "stubborn" else stop)
    signal.signal(signal.SIGHUP, lambda *_: note("reloaded"))
    note("began")
    if does == "leaves a child" and os.fork() == 0:
        # Nobody's child when its parent ends, as a session that outlives the daemon is.
        note("began a child")
        os.close(READY)
        while True:
            signal.pause()
    if does == "fails":
        sys.exit(1)
    if does == "killed at first" and not os.path.exists(task["lines"] + ".again"):
        with open(task["lines"] + ".again", "w"):
            os.kill(os.getpid(), signal.SIGKILL)
    if does == "silent":
        os.close(READY)
    else:
        os.write(READY, b"nonsense\n" if does == "babbles" else json.dumps({"pid": os.getpid()}).encode() + b"\n")
        os.close(READY)
    while True:
        signal.pause()
