"""The session's process between fork and exec: a session and terminal of its own, the user's rights, a clean start.

Until exec it is still a copy of the keeper: whatever fails here is said on its standard error and ends it.
"""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import signal
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from tinyport.host.greeting import greeting
from tinyport.host.login_records import LastLogin
from tinyport.host.privileges import become
from tinyport.node.python_process import name_process
from tinyport.node.session.plan import Plan

# env(1), sh(1): found but could not be run.
CANNOT_RUN = 126
#: bytes of a message between the keeper and the process that holds a session
MAX_CONTROL = 4096
_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


@dataclass(frozen=True)
class Manner:
    """How it is done here. ``greets``: say when the person was here last (``last``), and the message of the day.
    ``groups``: instead of the account's, when PAM added some."""

    privileged: bool
    greets: bool = False
    last: LastLogin | None = None
    groups: Sequence[int] | None = None
    keeps_umask: bool = False


def run(plan: Plan, manner: Manner, streams: tuple[int, int, int], environment: Mapping[bytes, bytes]) -> NoReturn:
    """Become the session. ``streams``: its standard input, output and error."""
    try:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        if plan.terminal is not None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        plain_process(keeps_umask=manner.keeps_umask)
        account = plan.account
        if manner.privileged:
            groups = account.groups if manner.groups is None else tuple(manner.groups)
            if plan.drops_itself:
                # It is told uid and gid; who is in which groups besides, PAM may have said.
                os.setgroups(groups)
            else:
                become(account.uid, account.gid, groups)
        try:
            # What becomes the user on its own goes there on its own, too: as root it may be another place (NFS).
            os.chdir("/" if plan.drops_itself else account.home)
        except OSError as error:
            # sshd goes on, too: somebody must be able to repair the home.
            say(f"could not change to the home directory: {error.strerror}")
            os.chdir("/")
        if manner.greets:
            _greet(plan, manner.last)
        os.execve(plan.path, plan.argv, environment)
    except BaseException as error:
        say(f"cannot start {plan.path}: {error}")
    finally:
        os._exit(CANNOT_RUN)


def plain_process(*, keeps_umask: bool) -> None:
    """Undo what an interpreter and a daemon have set and exec would hand on."""
    signal.set_wakeup_fd(-1)
    # What has a handler is plain again after exec; what is ignored stays so.
    for number in _SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if not keeps_umask:
        os.umask(0o022)


def apart(kept: set[int], name: str) -> None:
    """In a child of the keeper, which it is not any more: none of its sockets but ``kept``, none of its signals,
    nothing that the collector would touch.
    """
    gc.disable()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # The session's end is ours to see to, whoever else is told to stop.
        signal.signal(number, signal.SIG_IGN)
    name_process(name)
    # Every page that is written here is one more for each session: no listing of /proc.
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, max(first, descriptor))
        first = descriptor + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _greet(plan: Plan, last: LastLogin | None) -> None:
    text = greeting(plan.account.home, last)
    while text:
        text = text[os.write(1, text) :]


def say(text: str, descriptor: int = 2) -> None:
    """A line of ours for the person."""
    try:
        os.write(descriptor, f"tinyport: {text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        # Nobody listens; the exit status says it, too.
        return
