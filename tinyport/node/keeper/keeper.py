"""The keeper: owns the host key, judges, becomes users and waits for their sessions. See docs/protocol/node.md.

It starts when somebody comes and leaves when nobody is left. One thread, one loop, no asyncio and no asyncssh: nothing
that a stranger says is parsed here except what the table in ``connection`` lets through a worker.
"""

from __future__ import annotations

import base64
import gc
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import cast

from tinyport.core.errors import OperatorError, PeerError, TinyportError, Unavailable
from tinyport.core.version import VERSION
from tinyport.host.boot import boot_id
from tinyport.host.logging_line import Log
from tinyport.node.ipc import Channel
from tinyport.node.keeper import fields
from tinyport.node.keeper.accounts import NotFoundYet
from tinyport.node.keeper.audit import Audit
from tinyport.node.keeper.connection import LATER, MAX_SESSIONS, PROVED, Connection, refusal_text, say_before_ssh
from tinyport.node.keeper.documents import Documents
from tinyport.node.keeper.forward import Desk, Forwards
from tinyport.node.keeper.life import Life
from tinyport.node.keeper.limits import Limits
from tinyport.node.keeper.linger import Lingering
from tinyport.node.keeper.link import parse_arrival
from tinyport.node.keeper.live import Live
from tinyport.node.keeper.recordings import Recordings
from tinyport.node.keeper.room import LEFT_BY_CONNECTIONS, LEFT_BY_SESSIONS, descriptors_left, resident
from tinyport.node.keeper.sessions import Sessions, exit_fields
from tinyport.node.keeper.startups import MAX_STARTUPS, PLACES, PLACES_OF_PROCESSES, SigningIn
from tinyport.node.keeper.upstream import Upstream
from tinyport.node.keeper.workers import Worker, Workers
from tinyport.node.loop import Loop, Timer
from tinyport.node.session.bounds import MAX_ENVIRONMENT

NONCE_BYTES = 16
# sshd_config(5): LoginGraceTime is 120 there; a certificate needs no typing.
LOGIN_GRACE = 60.0
# sshd_config(5), ClientAliveInterval, is off there. A device whose people use phones must notice who vanished.
CLIENT_ALIVE = 60.0
# The worker closes late connections itself; the keeper's own clock is for workers that do not.
GRACE_SLACK = 15.0
# A worker alone has 25 MB, and what it maps counts, too.
LEAST_WORKER_MEMORY = 256 * 1024 * 1024
# An ended connection that its worker does not give up is cut.
END_LIMIT = 5.0
# A request has up to 256 KiB, and waits while a login is looked up. A client that does not wait for answers has two or
# three on their way.
MAX_WAITING_REQUESTS = 4
_FULL = b"tinyport: this machine has no room for another connection; try again later\r\n"


class Keeper:
    """``run`` returns when there is nothing left to keep. Owns the channel to link and everything below it."""

    def __init__(self, configuration: Mapping[str, object], channel: Channel) -> None:
        log = cast("dict[str, str]", configuration["log"])
        self._log = Log("node.keeper", log["level"], log["format"])
        self._loop = Loop()
        self._loop.watch_children()
        self._banner = str(configuration.get("banner") or "")
        self._privileged = bool(configuration["privileged"])
        limits = cast("dict[str, int | None]", configuration.get("limits") or {})
        self._memory = limits.get("memory")
        self._limits = {
            "sessions": limits.get("sessions") or MAX_SESSIONS,
            "env": MAX_ENVIRONMENT,
            "login_grace": limits.get("login_grace") or LOGIN_GRACE,
            "client_alive": CLIENT_ALIVE if limits.get("client_alive") is None else limits["client_alive"],
        }
        paths = cast("list[str]", configuration["paths"])
        files = {name: str(configuration[name]) for name in ("identity", "policy", "node", "floor")}
        memory = cast("int | None", configuration.get("identity_memory"))
        self._documents = Documents(files, self._log, str(configuration.get("instance") or ""), memory)
        name = str(configuration["name"])
        self._upstream = Upstream(
            self._loop, channel, configuration.get("folder"), name, self._documents, self, self._log
        )
        identity = self._documents.identity
        node = {"cluster": identity.cluster, "node": identity.uuid, "node_name": identity.name, "boot": boot_id()}
        self._audit = Audit(self._upstream.outbox.add, self._documents.now, node, self._log)
        place = self._upstream.folder, name
        self._live = Live(self._loop, self.tell, self._log, self._audit, self._session_ended, place, self.answer)
        self._recordings = Recordings(
            self._loop, self._upstream.tell, self._audit, self._log, self._documents.now, self._config
        )
        self._sessions = Sessions(
            self._loop,
            self._audit,
            self._log,
            privileged=self._privileged,
            now=self._documents.now,
            monotonic=time.monotonic,
            missing=self._missing,
            exited=self._session_ended,
            live=self._live,
            recordings=self._recordings,
            answer=self.answer,
            pam=cast("str | None", configuration.get("pam")),
        )
        self._workers = Workers(
            self._loop,
            self._log,
            paths=paths,
            configuration={
                "user": configuration["worker_user"],
                "log": log,
                "login_grace": self._limits["login_grace"],
                "client_alive": self._limits["client_alive"],
                "memory": None if self._memory is None else max(self._memory, LEAST_WORKER_MEMORY),
            },
            idle=float(cast(float, configuration["worker_idle"])),
            connections_per_worker=int(cast(int, configuration["connections_per_worker"])),
            heard=self._heard_worker,
            lost=self._connection_over,
            give=self._serve,
        )
        sessions = self._sessions
        self._forwarding = Desk(
            self._loop, self._audit, self._log, self._privileged, sessions.check_usable, keeping=self, pam=sessions.pam
        )
        most = limits.get("startups") or MAX_STARTUPS
        self._signing_in = SigningIn(
            self._loop,
            most,
            limits.get("startups_per_source") or max(1, most // 2),
            PLACES_OF_PROCESSES if configuration["connections_per_worker"] else PLACES,
            self._workers.place,
            self._turned_away,
            self._signed_in_or_not,
            float(cast(float, self._limits["login_grace"])),
            self._log,
        )
        self._connections: dict[int, Connection] = {}
        self._limits_of_people = Limits(
            self._loop,
            connections=lambda: list(self._connections.values()),
            running=self._sessions.running_of,
            now=self._documents.now,
            tell=self.tell,
            end=self._dismiss,
        )
        #: what connections that wait for a worker need besides
        self._dials: dict[int, Mapping[str, str]] = {}
        self._graces: dict[int, Timer] = {}
        self._last_number = 0
        self.life = Life(
            self._loop,
            float(cast(float, configuration["keeper_idle"])),
            kept=self._is_kept,
            ask=lambda: self._upstream.tell({"op": "closing"}),
            workers=self._workers,
            outbox=self._upstream.outbox,
        )

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_stop)
        self._upstream.tell_versions()
        self.life.rest()
        # What exists now stays: children that are forked need not copy it.
        gc.freeze()
        self._loop.run()
        self._recordings.leave()
        self._live.guests.close()
        self._upstream.leave()
        self._documents.save_floor()

    # ------------------------------------------------------------------ what link says

    def arrived(self, message: Mapping[str, object], descriptor: int) -> None:
        """A connection."""
        self._accept(message, descriptor)

    def expected(self) -> None:
        """A connection is on its way."""
        self._workers.warm()

    def link_renewed(self) -> None:
        """There is another link than before."""
        self._recordings.again()

    def succeeded(self) -> None:
        """There is another daemon, or will be: whoever joins one of our sessions comes to its keeper."""
        self._live.guests.open()

    def recording_told(self, message: Mapping[str, object]) -> None:
        """What auth says to a recording."""
        self._recordings.heard(message)

    def judge_again(self) -> None:
        """Locks, roles and labels hold for those who are here already, too."""
        self._sessions.changed()
        for connection in list(self._connections.values()):
            try:
                connection.judge_again()
            except TinyportError as error:
                self._dismiss(connection, f"access revoked: {refusal_text(error)}", error)
            else:
                self._limits_of_people.watch(connection)
        if self._documents.node is not None:
            self._live.end(self._documents.node.ended)
        self._live.parties.judge_again()

    def _dismiss(self, connection: Connection, text: str, reason: object = None) -> None:
        """End somebody's connection and all that runs in it."""
        peer = connection.endpoint.peer
        self._log.info("a connection is ended", peer=f"{peer[0]} port {peer[1]}", reason=reason or text)
        connection.ended_because = text
        self._sessions.end(connection)
        self._end(connection, text)

    # ------------------------------------------------------------------ connections

    def _accept(self, message: Mapping[str, object], descriptor: int) -> None:
        try:
            stream = socket.socket(fileno=descriptor)
        except OSError as error:
            self._log.error("a connection of link is none", reason=error)
            os.close(descriptor)
            return
        try:
            arrival = parse_arrival(message, stream)
            identity = self._documents.refresh_identity()
        except (PeerError, OperatorError, OSError) as error:
            self._log.error("a connection of link is not taken", reason=error)
            stream.close()
            return
        if self.life.draining:
            stream.close()
            return
        if descriptors_left() <= LEFT_BY_CONNECTIONS:
            self._log.warning(
                "no file descriptors are left for more connections; one is closed", peer=arrival.endpoint.peer[0]
            )
            if arrival.endpoint.kind == "direct" and say_before_ssh(stream, _FULL):
                Lingering(self._loop, stream)
            else:
                stream.close()
            return
        self._last_number += 1
        connection = Connection(
            number=self._last_number,
            stream=stream,
            endpoint=arrival.endpoint,
            version=f"tinyport_{VERSION} {os.urandom(NONCE_BYTES).hex()}",
            identity=identity,
            documents=self._documents,
            starter=self._sessions,
            audit=self._audit,
            monotonic=time.monotonic,
            forwards=Forwards(self._forwarding, self._last_number, arrival.endpoint.peer),
            limits=self._limits_of_people,
        )
        connection.max_sessions = int(cast(int, self._limits["sessions"]))
        self._connections[connection.number] = connection
        self._dials[connection.number] = arrival.dial
        grace = float(cast(float, self._limits["login_grace"])) + GRACE_SLACK
        self._graces[connection.number] = self._loop.after(grace, lambda: self._grace_over(connection))
        self._signing_in.arrived(connection)

    def _signed_in_or_not(self, connection: Connection, how: str) -> None:
        self._upstream.tell({"op": "ended", "peer": connection.endpoint.peer[0], "how": how})

    def _turned_away(self, connection: Connection) -> None:
        """It makes room for another: at once, whatever the worker does."""
        self._workers.withdraw(connection)
        if self._worker_of(connection) is None:
            self._connection_over(connection)
        else:
            connection.cut()

    def _grace_over(self, connection: Connection) -> None:
        if connection.number in self._connections and connection.state != PROVED:
            self._end(connection, "signing in took too long")

    def _serve(self, worker: Worker, connection: Connection) -> bool:
        """Hand it over. False when the worker is gone."""
        identity, endpoint = connection.identity, connection.endpoint
        certificate, key = identity.host_keys
        message: dict[str, object] = {
            "op": "serve",
            "conn": connection.number,
            "version": connection.version,
            "host_key": _base64(key),
            "host_certificate": _base64(certificate),
            "kind": endpoint.kind,
            "peer": list(endpoint.peer),
            "local": list(endpoint.local),
            "banner": self._banner,
            "limits": self._limits,
            **self._dials[connection.number],
        }
        if endpoint.kind == "dial":
            message["cluster"] = identity.cluster
            message["tls_cas"] = self._documents.dial_cas
        try:
            stream = connection.duplicate()
        except OSError as error:
            self._log.error("a connection cannot be given to a worker", reason=error)
            self._loop.after(0, lambda: self._give_up(worker, connection))
            return True
        with stream:
            given = self._workers.send(worker, message, [stream.fileno()])
        if given:
            self._dials.pop(connection.number, None)
        return given

    def _give_up(self, worker: Worker, connection: Connection) -> None:
        self._workers.forget(worker, connection)
        self._connection_over(connection)

    def _end(self, connection: Connection, text: str) -> None:
        """Have the worker say goodbye; cut the line when it does not."""
        worker = self._worker_of(connection)
        if worker is None:
            self._turned_away(connection)
            return
        connection.told_why = True
        self._workers.send(worker, {"op": "end", "conn": connection.number, "message": text})
        self._loop.after(END_LIMIT, lambda: self._end_over(connection))

    def _end_over(self, connection: Connection) -> None:
        if connection.number in self._connections:
            connection.cut()
            worker = self._worker_of(connection)
            if worker is not None:
                self._workers.forget(worker, connection)
            self._connection_over(connection)

    def _linger(self, connection: Connection) -> None:
        try:
            Lingering(self._loop, connection.duplicate())
        except OSError as error:
            self._log.debug("a client may not read why it was ended", reason=error)

    def _worker_of(self, connection: Connection) -> Worker | None:
        for worker in self._workers.all:
            if connection.number in worker.connections:
                return worker
        return None

    def _connection_over(self, connection: Connection) -> None:
        if self._connections.pop(connection.number, None) is None:
            return
        self._dials.pop(connection.number, None)
        self._graces.pop(connection.number).cancel()
        self._signing_in.over(connection)
        self._limits_of_people.forget(connection)
        self._recordings.connection_over(connection)
        if connection.told_why:
            self._linger(connection)
        connection.close()
        self.life.rest()

    def _session_ended(self, connection: Connection, number: int, status: int) -> None:
        worker = self._worker_of(connection)
        if worker is not None:
            ended = {"status": None, "signal": None, "core": False, **exit_fields(status)}
            self._workers.send(worker, {"op": "exit", "conn": connection.number, "session": number, **ended})
        self.life.rest()

    # ------------------------------------------------------------------ workers

    def _heard_worker(self, worker: Worker, message: dict[str, object]) -> None:
        request = fields.text(message, "op", 16)
        identifier = fields.number(message, "id", 2**53)
        connection = worker.connections.get(fields.number(message, "conn", 2**53))
        if connection is None:
            if fields.number(message, "conn", 2**53) > self._last_number:
                raise PeerError("a connection that does not exist")
            # Ended here while the request was on its way.
            self._answer(worker, identifier, Unavailable("the connection is gone"))
            return
        try:
            answer, descriptors = connection.handle(request, message)
        except PeerError:
            raise
        except NotFoundYet as wait:
            if connection.waiting >= MAX_WAITING_REQUESTS:
                self._answer(worker, identifier, Unavailable("too many requests wait for the same answer"))
                return
            connection.waiting += 1
            self._sessions.accounts.after(wait.login, lambda: self._hear_again(worker, connection, message))
            return
        except TinyportError as error:
            if error.detail:
                self._log.debug("a request is refused", request=request, reason=error)
            self._answer(worker, identifier, error)
            if connection.exhausted:
                self._end(connection, "too many authentication failures")
            return
        except OSError as error:
            # No descriptor, process or memory left: nobody's fault who asks, and nobody's else who is served.
            self._log.error("a request cannot be served", request=request, reason=error)
            self._answer(worker, identifier, Unavailable(f"this machine cannot do that now: {error.strerror}"))
            return
        except Exception as error:
            # A bug of ours that one worker found must not end everybody's sessions: it ends that worker.
            self._log.error("a request of a worker failed", request=request, reason=repr(error))
            raise PeerError("a request that cannot be served", detail=repr(error)) from error
        if answer is LATER[0]:
            return
        try:
            encoded = {key: _base64(value) if isinstance(value, bytes) else value for key, value in answer.items()}
            self._workers.send(worker, {"id": identifier, "ok": True, **encoded}, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if request == "kex":
            self._signing_in.keyed(connection)
        elif request == "prove":
            self._signing_in.proved(connection)
            self._limits_of_people.watch(connection)
        elif request == "gone":
            self._workers.forget(worker, connection)
            self._connection_over(connection)

    def _hear_again(self, worker: Worker, connection: Connection, message: dict[str, object]) -> None:
        """A login that a request needs was looked up. Everything is judged anew, as much may have happened since."""
        connection.waiting -= 1
        if worker not in self._workers.all:
            return
        try:
            self._heard_worker(worker, message)
        except PeerError as error:
            self._workers.kill(worker, str(error))

    def answer(
        self, number: int, request: int, answer: Mapping[str, object] | TinyportError, descriptors: Sequence[int] = ()
    ) -> None:
        """What ``handle`` left for later. The descriptors stay the caller's."""
        connection = self._connections.get(number)
        worker = self._worker_of(connection) if connection is not None else None
        if worker is None:
            return
        if isinstance(answer, TinyportError):
            self._answer(worker, request, answer)
        else:
            self._workers.send(worker, {"id": request, "ok": True, **answer}, descriptors)

    def tell(self, number: int, message: Mapping[str, object], descriptors: Sequence[int] = ()) -> None:
        """Something for the worker of a connection. The descriptors stay the caller's."""
        connection = self._connections.get(number)
        worker = self._worker_of(connection) if connection is not None else None
        if worker is not None:
            self._workers.send(worker, message, descriptors)

    def _answer(self, worker: Worker, identifier: int, error: TinyportError) -> None:
        message = {"id": identifier, "ok": False, "message": refusal_text(error), "code": error.code}
        self._workers.send(worker, message)

    # ------------------------------------------------------------------ the end

    @property
    def running(self) -> int:
        """How many sessions there are."""
        return self._sessions.running

    def _is_kept(self) -> bool:
        return bool(self._connections or self._sessions.running)

    def _config(self) -> Mapping[str, object]:
        policy = self._documents.policy
        return {} if policy is None else policy.config

    def _missing(self) -> str:
        """What there is not enough of for another session."""
        if self._memory is not None and resident([worker.pid for worker in self._workers.all]) >= self._memory:
            return "memory"
        return "" if descriptors_left() > LEFT_BY_SESSIONS else "file descriptors"

    def _asked_to_stop(self, number: int, frame: object) -> None:
        """Somebody wants the sessions gone, too: a machine that goes down, or a person who stops a program of theirs.
        A daemon that is only restarted lets go of its end of the line.
        """
        del frame
        if number == signal.SIGTERM:
            self._loop.after(0, self._stop)

    def _stop(self) -> None:
        self._log.info("all sessions are ended", reason="asked to stop", sessions=self._sessions.running)
        self._sessions.end_all()
        for connection in list(self._connections.values()):
            self._end(connection, "this machine is shutting down")
        self.life.drain()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
