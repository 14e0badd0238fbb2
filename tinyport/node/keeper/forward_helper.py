"""The forwarding helper as the keeper has it: a process of the user's that is started, told, heard and ended."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence

from tinyport.core.errors import PeerError
from tinyport.host.accounts import Account
from tinyport.host.logging_line import Log
from tinyport.node.ipc import Channel, pair
from tinyport.node.loop import READ, WRITE, Loop
from tinyport.node.python_process import light_arguments, spawn
from tinyport.node.session.spare import PamWish

MAX_QUEUED = 512
# It has sockets to remove, and nothing else.
KILL_AFTER = 5.0


class HelperProcess:
    """Lifecycle: started by its making (OSError), told by ``send``, ended by ``end``, killed when it stays.

    ``heard`` gets each message and its descriptors, which stay ours and are stream sockets; what it raises as PeerError
    kills the process. ``lost`` is called once, when it ended by itself or was killed.
    """

    def __init__(
        self,
        loop: Loop,
        log: Log,
        account: Account,
        heard: Callable[[Mapping[str, object], Sequence[int]], None],
        lost: Callable[[], None],
        *,
        privileged: bool,
        pam: PamWish | None = None,
    ) -> None:
        """``pam``: whether the account may be used is for PAM to say; ``{"op": "refused"}`` is heard when not."""
        self._loop = loop
        self._log = log
        self._heard = heard
        self._lost = lost
        argv = [*light_arguments("tinyport.node.forward.forward", call="main()"), account.home]
        if privileged:
            groups = ",".join(str(group) for group in account.groups)
            argv.append(f"{account.uid}:{account.gid}:{groups}")
        ours, theirs = pair()
        try:
            self._pid = _start(argv, theirs, account.name, pam)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel: Channel | None = Channel(ours, queue_limit=MAX_QUEUED)
        self._loop.child(self._pid, self._exited)
        self._watch()

    def send(self, message: Mapping[str, object]) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(message)
        except OSError as error:
            self._kill(f"it does not listen: {error}")
            return
        self._watch()

    def end(self) -> None:
        self._close()
        self._loop.after(KILL_AFTER, lambda: self._loop.kill(self._pid, signal.SIGKILL))

    def _watch(self) -> None:
        if self._channel is not None:
            events = READ | (WRITE if self._channel.wants_write else 0)
            self._loop.add(self._channel.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        assert self._channel is not None
        try:
            if events & WRITE:
                self._channel.flush()
            if events & READ:
                received = self._channel.receive()
                if received is None:
                    self.end()
                    self._lost()
                    return
                message, descriptors = received
                try:
                    for descriptor in descriptors:
                        _check_stream(descriptor)
                    self._heard(message, descriptors)
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)
        except BlockingIOError:
            pass
        except (PeerError, OSError) as error:
            self._kill(str(error))
            return
        self._watch()

    def _kill(self, why: str) -> None:
        self._log.error("a forwarding helper is ended", pid=self._pid, reason=why)
        self._close()
        self._loop.kill(self._pid, signal.SIGKILL)
        # Not from within a request that has just asked it.
        self._loop.after(0, self._lost)

    def _close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            self._loop.remove(channel.fileno())
            channel.close()

    def _exited(self, status: int) -> None:
        if self._channel is not None:
            self._log.warning("a forwarding helper ended", pid=self._pid, status=os.waitstatus_to_exitcode(status))
            self._close()
            self._lost()


def _start(argv: Sequence[str], theirs: socket.socket, user: str, pam: PamWish | None) -> int:
    if pam is None:
        return spawn(argv, [theirs.fileno()])
    pid = os.fork()
    if pid == 0:
        from tinyport.node.forward.account import admit

        admit(pam, user, argv, theirs)
    return pid


def _check_stream(descriptor: int) -> None:
    """PeerError unless it is a connected kind of thing that a worker may be given: a stream socket."""
    try:
        duplicate = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        raise PeerError("the forwarding helper handed over something that is no socket") from None
    with duplicate:
        if duplicate.type != socket.SOCK_STREAM or duplicate.family not in (
            socket.AF_INET,
            socket.AF_INET6,
            socket.AF_UNIX,
        ):
            raise PeerError("the forwarding helper handed over another kind of socket")
