"""A session channel (RFC 4254 section 6): what the client asks for, the keeper's answer, the pump.

asyncssh's channel decodes commands as UTF-8, accepts every variable and answers at once; here commands are bytes, the
variables are few, and the answer waits for the keeper.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

import asyncssh
from asyncssh.packet import SSHPacket

from tinyport.core.certificate import DOMAIN
from tinyport.core.errors import TinyportError, Unavailable
from tinyport.node.session.bounds import MAX_COMMAND, MAX_ENVIRONMENT, MAX_VALUE, SIGNALS, client_variable_allowed
from tinyport.node.worker.bounds import BoundedChannel
from tinyport.node.worker.keeper import Answer, base64_text, close_all
from tinyport.node.worker.packets import Unlogged
from tinyport.node.worker.pump import STDERR, Pump
from tinyport.node.worker.pump_recording import Recorder

# ssh(1) exits with 255 when it was itself that failed; so do we when no process ran.
NOT_STARTED = 255
NOTICE = "this session is recorded"
# All values together: with the longest command they still fit into one message to the keeper, escaped as JSON has them.
MAX_VALUES = 8 * 1024


class Sessions(Protocol):
    """What a session needs of its connection."""

    permits_pty: bool

    async def open_session(self, session: NodeSession, request: dict[str, object]) -> Answer: ...

    def signal_session(self, session: NodeSession, signal: str) -> None: ...

    def hang_up(self, session: NodeSession) -> None: ...

    def session_over(self, session: NodeSession) -> None: ...

    def party_dropped(self, session: NodeSession, party: int) -> None: ...

    def recording_failed(self, session: NodeSession, why: str) -> None: ...

    def recording_over(self, session: NodeSession, lost: int) -> None: ...

    async def forward_agent(self) -> int | None: ...

    async def forward_x11(self, protocol: bytes, cookie: bytes, screen: int, once: bool) -> int | None: ...

    def stop_listening(self, number: int) -> None: ...


class NodeSession(asyncssh.SSHServerSession[bytes]):
    """One session. ``number`` names it between worker and keeper, from the moment that it is asked for."""

    def __init__(self, sessions: Sessions, loop: asyncio.AbstractEventLoop) -> None:
        self.number = 0
        self._sessions = sessions
        self._loop = loop
        self._channel: Any = None
        self._pump: Pump | None = None
        self._terminal: dict[str, object] | None = None
        #: forwarded to this session: the agent, and the listener that is its display
        self._agent = False
        self._display: int | None = None
        self._begun = False
        self._open = False
        self._ended = False

    # ------------------------------------------------------------------ asyncssh's callbacks

    def connection_made(self, chan: Any) -> None:
        self._channel = chan
        self._pump = Pump(self._loop, chan, self._finished)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._pump is not None:
            self._pump.close()
        if self._open and not self._ended:
            self._sessions.hang_up(self)
        self._open = False
        if self._display is not None:
            # As sshd: what is connected to the display stays, nothing new comes.
            self._sessions.stop_listening(self._display)
        self._sessions.session_over(self)

    def pty_requested(self, term_type: str, term_size: Any, term_modes: Any) -> bool:
        if self._terminal is not None or self._begun or not self._sessions.permits_pty:
            return False
        columns, rows, width, height = term_size
        self._terminal = {
            "term": term_type[:64] if term_type.isprintable() else "",
            "modes": {str(opcode): value for opcode, value in list(term_modes.items())[:128]},
        }
        self._size(columns, rows, width, height)
        return True

    def _size(self, columns: int, rows: int, width: int, height: int) -> None:
        if self._terminal is not None:
            self._terminal.update(columns=columns, rows=rows, width=width, height=height)

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        self._size(width, height, pixwidth, pixheight)
        if self._pump is not None:
            self._pump.resize(width, height, pixwidth, pixheight)

    def takes_signal(self, signal: str) -> bool:
        """Send it. False: there is no such signal, or nothing that runs."""
        if not self._open or signal not in SIGNALS:
            return False
        self._sessions.signal_session(self, signal)
        return True

    def output_unwanted(self) -> None:
        """The client takes no more of the standard output: who writes into it hears of it, as on a closed pipe."""
        if self._pump is not None:
            self._pump.close_output()

    def break_received(self, msec: int) -> bool:
        # A serial line's break means nothing to a pty.
        del msec
        return False

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._pump is not None and datatype is None:
            self._pump.feed(data)

    def eof_received(self) -> bool:
        if self._pump is not None:
            self._pump.feed_eof()
        # The other half stays open: `ssh host sort < file` gets its answer after its EOF.
        return True

    def pause_writing(self) -> None:
        if self._pump is not None:
            self._pump.pause_writing()

    def resume_writing(self) -> None:
        if self._pump is not None:
            self._pump.resume_writing()

    # ------------------------------------------------------------------ agent and X11

    async def forward_agent(self) -> bool:
        self._agent = not self._begun and await self._sessions.forward_agent() is not None
        return self._agent

    async def forward_x11(self, protocol: bytes, cookie: bytes, screen: int, once: bool) -> bool:
        """One display for each session, as in sshd."""
        if self._begun or self._display is not None:
            return False
        display = await self._sessions.forward_x11(protocol, cookie, screen, once)
        if display is not None and self._channel.is_closing():
            self._sessions.stop_listening(display)
            return False
        self._display = display
        return display is not None

    # ------------------------------------------------------------------ the process

    @property
    def begun(self) -> bool:
        return self._begun

    def begin(self) -> bool:
        """May a shell, command or subsystem be asked for? Once (RFC 4254 section 6.5)."""
        if self._begun:
            return False
        self._begun = True
        return True

    async def start(self, request: dict[str, object], environment: dict[str, str]) -> TinyportError | None:
        """Have the keeper start it. Returns the refusal, if it is one."""
        request = {**request, "pty": self._terminal, "env": environment, "agent": self._agent, "display": self._display}
        try:
            answer, descriptors = await self._sessions.open_session(self, request)
        except TinyportError as error:
            return error
        if self._pump is None or self._channel.is_closing():
            # The client left while the process was started.
            close_all(descriptors)
            self._sessions.hang_up(self)
            return None
        if not descriptors:
            # They were lost on the way (ipc.Channel): the limit on open files is reached.
            self._sessions.hang_up(self)
            return Unavailable(
                "this node is too busy for another session; try again later", detail="no descriptor left"
            )
        self._open = True
        self._pump.attach(*self._recorded(answer, descriptors, request["pty"]))
        wish = answer.get("recording")
        if isinstance(wish, dict) and wish.get("notice"):
            self._pump.say(NOTICE)
        terminal = self._terminal
        if terminal is not None and terminal != request["pty"]:
            self._pump.resize(*(int(str(terminal[name])) for name in ("columns", "rows", "width", "height")))
        return None

    def _recorded(
        self, answer: dict[str, object], descriptors: list[int], terminal: object
    ) -> tuple[list[int], Recorder | None]:
        """The process's descriptors, and what records it, for which one more came."""
        wish = answer.get("recording")
        if not isinstance(wish, dict):
            return descriptors, None
        size = (int(terminal["columns"]), int(terminal["rows"])) if isinstance(terminal, dict) else None
        recorder = Recorder(
            self._loop,
            descriptors[-1],
            wish,
            size,
            lambda why: self._sessions.recording_failed(self, why),
            lambda lost: self._sessions.recording_over(self, lost),
        )
        return descriptors[:-1], recorder

    def exited(self, status: int | None, signal: str | None, core: bool) -> None:
        """The keeper says that the process has ended."""
        self._ended = True
        if signal is not None and signal not in SIGNALS:
            # RFC 4254 section 6.10: others have a name of somebody's, "sig-name@xyz".
            signal = f"{signal}@{DOMAIN}"
        if self._pump is not None:
            self._pump.exited(status, signal, core)

    def explain(self, error: TinyportError) -> None:
        """Tell the person why, where they look: on standard error."""
        try:
            # A raw terminal needs the carriage return, too.
            end = "\r\n" if self._terminal is not None else "\n"
            self._channel.write(f"tinyport: {error.message}{end}".encode(), STDERR)
        except OSError:
            # The client has closed the channel.
            return

    def refuse(self) -> None:
        """It comes to nothing, and ends as a session does."""
        try:
            self._channel.exit(NOT_STARTED)
        except OSError:
            # The client has closed the channel.
            return

    def begin_again(self) -> None:
        """What was asked for is not there: the client may ask for something else, as clients of sftp do."""
        self._begun = False

    def party_changed(self, message: dict[str, object], descriptors: list[int]) -> bool:
        """Somebody has joined, whose pipes these are, or left. False: there is nothing to join."""
        party = int(str(message["party"]))
        if self._pump is None or not self._open:
            return False
        if message["op"] == "part":
            self._pump.part(party)
        self._pump.say(str(message["text"]))
        if descriptors:
            self._pump.join(party, descriptors, lambda party: self._sessions.party_dropped(self, party))
        return True

    def close_because(self, text: str) -> None:
        """It is ended, whatever its process makes of it: say why, and let the client go (RFC 4254 section 6.10)."""
        try:
            line = f"tinyport: {text}"
            self._channel.write((f"\r\n{line}\r\n" if self._terminal is not None else f"{line}\n").encode(), STDERR)
            self._channel.exit_with_signal("HUP", False, text)
        except OSError:
            # The client has closed the channel.
            return

    def _finished(self) -> None:
        self._open = False


class SessionChannel(Unlogged, BoundedChannel, asyncssh.SSHServerChannel[bytes]):
    """asyncssh's channel with our handlers for the requests of RFC 4254 section 6 that matter here."""

    def _node_session(self) -> NodeSession:
        session = self._session
        assert isinstance(session, NodeSession)
        return session

    def _process_env_request(self, packet: SSHPacket) -> bool:
        key, value = packet.get_string(), packet.get_string()
        packet.check_end()
        if self._node_session().begun or b"\0" in value:
            return False
        try:
            name, text = key.decode("ascii"), value.decode("utf-8")
        except UnicodeDecodeError:
            return False
        allowed = client_variable_allowed(name) and len(text) <= MAX_VALUE and len(self._env) < MAX_ENVIRONMENT
        if not allowed or sum(map(len, self._env.values())) + len(value) > MAX_VALUES:
            return False
        self._env[key] = value
        return True

    def _process_shell_request(self, packet: SSHPacket) -> Any:
        packet.check_end()
        return self._begin({"kind": "shell"})

    def _process_exec_request(self, packet: SSHPacket) -> Any:
        command = packet.get_string()
        packet.check_end()
        if len(command) > MAX_COMMAND:
            return False
        return self._begin({"kind": "exec", "command": base64_text(command)})

    def _process_subsystem_request(self, packet: SSHPacket) -> Any:
        name = packet.get_string()
        packet.check_end()
        try:
            subsystem = name.decode("ascii")
        except UnicodeDecodeError:
            return False
        if len(subsystem) > 64:
            return False
        return self._begin({"kind": "subsystem", "subsystem": subsystem})

    def _process_signal_request(self, packet: SSHPacket) -> bool:
        """RFC 4254 section 6.9."""
        name = packet.get_string()
        packet.check_end()
        return self._node_session().takes_signal(name.decode("ascii", "replace"))

    def _process_eow_at_openssh_dot_com_request(self, packet: SSHPacket) -> bool:
        """OpenSSH's PROTOCOL section 2.1: ``ssh host yes | head -1`` ends."""
        packet.check_end()
        self._node_session().output_unwanted()
        return True

    def _process_x11_req_request(self, packet: SSHPacket) -> Any:
        """RFC 4254 section 6.3.1."""
        once = packet.get_boolean()
        protocol, cookie, screen = packet.get_string(), packet.get_string(), packet.get_uint32()
        packet.check_end()
        return self._later(self._node_session().forward_x11(protocol, cookie, screen, once))

    def _process_auth_agent_req_at_openssh_dot_com_request(self, packet: SSHPacket) -> Any:
        """OpenSSH's, draft-ietf-sshm-ssh-agent section 5.1."""
        packet.check_end()
        return self._later(self._node_session().forward_agent())

    def _later(self, answer: Coroutine[Any, Any, bool]) -> None:
        """The answer to this request is ``answer``'s; asyncssh holds further requests back until then."""

        async def report() -> None:
            granted = await answer
            if self._session is not None and self._request_queue:
                self._report_response(granted)

        assert self._conn is not None
        self._conn.create_task(report(), self.logger)

    def _begin(self, request: dict[str, object]) -> bool | None:
        """None: the answer is given later, by ``_start``; asyncssh holds further requests back until then."""
        if not self._node_session().begin():
            return False
        assert self._conn is not None
        self._conn.create_task(self._start(request), self.logger)
        return None

    async def _start(self, request: dict[str, object]) -> None:
        session = self._node_session()
        environment = {name.decode("ascii"): value.decode("utf-8") for name, value in self._env.items()}
        refusal = await session.start(request, environment)
        if self._session is None or not self._request_queue:
            return
        if refusal is not None:
            session.explain(refusal)
        if refusal is not None and refusal.code == "subsystem":
            # RFC 4254 section 6.5: psftp and others then look for another way, on the same channel.
            session.begin_again()
            self._report_response(False)
            return
        # Any other refusal, too, is a session: one that says why. A failed request alone would show the person nothing.
        self._report_response(True)
        if refusal is not None:
            session.refuse()
