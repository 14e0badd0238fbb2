"""The keeper's end of a PAM session's process (``session.holder``): signals to it, the session's end from it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

from tinyport.host.logging_line import Log
from tinyport.node.loop import READ, Loop
from tinyport.node.session.process import MAX_CONTROL


class Held:
    """``ended(wait status)`` is called once: with what the process said of the session, or, when it was killed before
    it could say anything, with its own status. Owns ``control``.
    """

    def __init__(self, loop: Loop, control: socket.socket, pid: int, ended: Callable[[int], None], log: Log) -> None:
        self._loop = loop
        self._control: socket.socket | None = control
        self._ended = ended
        self._log = log
        loop.add(control.fileno(), READ, lambda events: self._readable())
        loop.child(pid, self._gone)

    def send(self, number: int) -> None:
        """A signal for the session's process group."""
        if self._control is None:
            return
        try:
            self._control.send(json.dumps({"signal": number}).encode())
        except OSError as error:
            self._log.debug("a session's holder does not listen", reason=error)

    def _readable(self) -> None:
        control = self._control
        if control is None:
            return
        try:
            data = control.recv(MAX_CONTROL)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._control = None
        self._loop.remove(control.fileno())
        control.close()
        if not data:
            # It was killed; its own end says so.
            return
        message = json.loads(data)
        if "refused" in message:
            self._log.warning("PAM did not let a session begin", reason=message["refused"])
        self._tell(int(message["exit"]))

    def _gone(self, status: int) -> None:
        # What it said may still be unread: its end and its word come at the same time when PAM closes quickly.
        self._readable()
        self._tell(status)

    def _tell(self, status: int) -> None:
        ended, self._ended = self._ended, _nobody
        ended(status)


def _nobody(status: int) -> None:
    del status
