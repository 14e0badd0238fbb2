"""A session with PAM: a process that opens it, waits for the person's, and closes it, whatever happens to the others.

Forked from the keeper and never exec'd, so that what it needs is shared. Modules change the process that calls them
(cgroup, limits, groups, mounts), so each session has one; it outlives the keeper. It speaks JSON with the keeper on a
seqpacket socket: ``{"exit": wait status, "refused": why}`` once, and hears ``{"signal": number}``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn

from tinyport.core.errors import TinyportError
from tinyport.core.names import printable
from tinyport.host.pam import Pam
from tinyport.node.session.plan import Plan
from tinyport.node.session.process import MAX_CONTROL, Manner, apart, run, say

#: the status of a session that did not come about, as of ssh itself
REFUSED = 255
# passwd(1) where distributions have it; sshd starts the same.
PASSWD = "/usr/bin/passwd"  # noqa: S105 - a program


def hold(
    plan: Plan,
    manner: Manner,
    streams: tuple[int, int, int],
    environment: Mapping[bytes, bytes],
    *,
    service: str,
    tty: str,
    host: str,
    control: socket.socket,
) -> NoReturn:
    """In a child of the keeper. ``tty``: the terminal's path, or "ssh"; ``host``: the peer's address."""
    status = 0
    try:
        apart({*streams, control.fileno()}, "tinyport-pam")
        status = _session(plan, manner, streams, environment, service, tty, host, control)
    except BaseException as error:
        status = REFUSED << 8
        _tell(control, {"exit": status, "refused": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(0 if status == 0 else 1)


def _session(
    plan: Plan,
    manner: Manner,
    streams: tuple[int, int, int],
    environment: Mapping[bytes, bytes],
    service: str,
    tty: str,
    host: str,
    control: socket.socket,
) -> int:
    person = streams[2]
    # To a program at the other end of a pipe a module's remark would be noise.
    talking = plan.terminal is not None

    def tell_person(text: str) -> None:
        if talking:
            os.write(person, f"{printable(text, 1000)}\n".encode())

    # pam_group adds to what is there.
    os.setgroups(plan.account.groups)
    pam = Pam(service, plan.account.name, tty=tty, host=host, say=tell_person)
    try:
        try:
            if not pam.account():
                plan = _new_password(plan, person)
            pam.establish()
            pam.open()
            whole = {**environment, **_kept(pam.environment(), environment)}
        except TinyportError as error:
            say(error.message, person)
            _tell(control, {"exit": REFUSED << 8, "refused": str(error)})
            return REFUSED << 8
        # From here on the descriptor may be another file's.
        talking = False
        status = _run(plan, replace(manner, groups=os.getgroups(), keeps_umask=True), streams, whole, control)
    finally:
        pam.close()
    return status


def _kept(found: Mapping[bytes, bytes], environment: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """What modules want, but for what the connection itself decides."""
    own = (b"HOME", b"USER", b"LOGNAME", b"SHELL", b"TERM", b"SSH_", b"TINYPORT_", b"DISPLAY")
    return {name: value for name, value in found.items() if not (name.startswith(own) and name in environment)}


def _new_password(plan: Plan, person: int) -> Plan:
    """As sshd: whoever has a terminal must change the password now, and log in again."""
    if plan.terminal is None or not os.access(PASSWD, os.X_OK):
        raise TinyportError("the account's password has expired, and it takes a terminal to change it")
    say("your password has expired; change it now, and log in again", person)
    return replace(plan, path=PASSWD, argv=(b"passwd",), kind="shell", command="", drops_itself=False)


def _run(
    plan: Plan,
    manner: Manner,
    streams: tuple[int, int, int],
    environment: Mapping[bytes, bytes],
    control: socket.socket,
) -> int:
    """The session itself → its wait status, which the keeper was told."""
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    pid = os.fork()
    if pid == 0:
        control.close()
        run(plan, manner, streams, environment)
    for stream in set(streams):
        # The person's terminal ends with the person's processes.
        os.close(stream)
    status: int | None = None
    sources = [woken, control.fileno()]
    while status is None:
        ready, _, _ = select.select(sources, [], [])
        if control.fileno() in ready and not _obey(control, pid):
            # The keeper is gone. The session goes on, and is closed.
            sources.remove(control.fileno())
        if woken in ready:
            os.read(woken, 512)
        found, ended = os.waitpid(pid, os.WNOHANG)
        if found:
            status = ended
    _tell(control, {"exit": status})
    return status


def _obey(control: socket.socket, pid: int) -> bool:
    """A signal for the session's process group. False at the end of the keeper."""
    try:
        message = control.recv(MAX_CONTROL)
        if not message:
            return False
        number = int(json.loads(message)["signal"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        # It has no group yet, or none any more.
        os.kill(pid, number)
    return True


def _tell(control: socket.socket, message: Mapping[str, object]) -> None:
    try:
        control.send(json.dumps(message).encode())
    except OSError:
        # No keeper: nobody wants to know.
        return
