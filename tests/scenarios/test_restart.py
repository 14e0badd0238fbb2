"""A node's daemon that is restarted, killed and reloaded under people's sessions: they do not notice."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.cluster import BIN, LIMIT, Cluster, alive, wait_for
from tests.scenarios.test_joining import person
from tinyport.core.errors import Unavailable
from tinyport.node.monitor import status as monitor_status

_NUMBERS = itertools.count(1)


class Daemon:
    """A node that is a service of its own, on loopback."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.name = f"shed-{next(_NUMBERS)}"
        self.data = folder / "shed"
        self.log = folder / "shed.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.config = folder / "shed.toml"
        self.token = cluster.tctl_json("tokens", "add", "--type", "node")["token"]
        self.configure()
        self.process: subprocess.Popen[bytes] | None = None
        self._clients: list[subprocess.Popen[bytes]] = []

    def configure(self, more: str = "", listen: str = "") -> None:
        pin = self.cluster.ready["ca_pin"]
        self.config.write_text(
            f'[tinyport]\nnodename = "{self.name}"\ndata_dir = "{self.data}"\n'
            f'server = "{self.cluster.ready["proxy"]}"\n'
            f'token = "{self.token}"\nca_pin = "{pin}"\n'
            f"[node]\nlisten = [{listen or json.dumps(f'127.0.0.1:{self.port}')}]\n{more}"
        )

    def start(self) -> None:
        words = [str(BIN / "tinyport"), "start", "--roles=node", "-c", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.cluster.env()
            )
        self.until(lambda status: status["pid"] == self.pid and status["tunnel"]["tunnel"] == "up")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def status(self) -> dict[str, Any]:
        return monitor_status.ask(self.data)

    def refusals(self) -> int:
        return self.log.read_text().count("goes on with the configuration that it has")

    def until(self, check: Any) -> dict[str, Any]:
        def asked() -> dict[str, Any] | None:
            try:
                status = self.status()
            except Unavailable:
                assert self.process is not None
                assert self.process.poll() is None, self.log.read_text()
                return None
            return status if check(status) else None

        try:
            found: dict[str, Any] = wait_for("the node", asked)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()}") from None
        return found

    def end(self, number: int) -> None:
        """Send the monitor a signal and wait until it has gone."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(LIMIT)

    def restart(self, number: int) -> None:
        self.end(number)
        self.start()

    # ------------------------------------------------------------------ people

    def ssh(self, *words: str, direct: bool = True) -> subprocess.Popen[bytes]:
        """OpenSSH to the node's own port, or through the proxy and the node's tunnel."""
        name = self.cluster.tctl_json("status")["cluster"]
        options = ["-F", str(self.cluster.folder / "ssh_config.ann"), "-o", "BatchMode=yes"]
        options += ["-o", f"HostKeyAlias={self.name}.{name}"]
        if direct:
            options += ["-o", "ProxyCommand=none", "-o", "HostName=127.0.0.1", "-p", str(self.port)]
        words = ("ssh", *options, *words[:-1], f"{self.cluster.login_name}@{self.name}.{name}", words[-1])
        pipe = subprocess.PIPE
        made = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=self.cluster.env("ann"))
        self._clients.append(made)
        return made

    def hang_up(self) -> None:
        """Whatever clients are left at the end of a test."""
        for client in self._clients:
            client.kill()
            client.wait(LIMIT)
            for stream in (client.stdin, client.stdout, client.stderr):
                assert stream is not None
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def events(self, name: str) -> list[dict[str, Any]]:
        listed = self.cluster.tctl_json("audit", "--type", name, "--limit", "500")
        return [event for event in listed["events"] if event.get("node") == self.name]


@pytest.fixture
def daemon(cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    if not (cluster.folder / "ann").exists():
        cluster.add_user("ann", cluster.login_name)
        cluster.ssh_config("ann")
    made = Daemon(cluster, tmp_path)
    made.start()
    yield made
    made.hang_up()
    if made.process is not None and made.process.poll() is None:
        # Whoever is at a terminal ends everything.
        made.end(signal.SIGINT)


@contextlib.contextmanager
def locked(cluster: Cluster, message: str) -> Iterator[None]:
    made = cluster.tctl_json("lock", "--user", "ann", "--message", message)
    try:
        yield
    finally:
        done = cluster.tctl("unlock", made["id"])
        assert done.returncode == 0, done.stderr


#: SIGTERM ends an unprivileged node with all its sessions.
ENDS = [pytest.param(signal.SIGTERM, marks=pytest.mark.root), signal.SIGKILL]


@pytest.mark.parametrize("number", ENDS)
def test_sessions_live_through_restarts_and_are_told_once(daemon: Daemon, number: int) -> None:
    terminal = daemon.ssh("-tt", "echo terminal; read line; echo got $line; exit 7")
    assert terminal.stdout is not None
    assert terminal.stdin is not None
    assert terminal.stdout.readline().strip() == b"terminal"
    tunnelled = daemon.ssh("echo tunnelled; cat; exit 3", direct=False)
    assert tunnelled.stdout is not None
    assert tunnelled.stdin is not None
    assert tunnelled.stdout.readline() == b"tunnelled\n"
    first = daemon.status()["pids"]
    assert first["keeper"]

    daemon.restart(number)
    status = daemon.until(lambda status: len(status["old_keepers"]) == 1)
    assert status["old_keepers"][0]["pid"] == first["keeper"]
    assert status["old_keepers"][0]["sessions"] == 2
    assert not alive(first["link"])
    # Ends without anybody to tell it to but the new daemon, while another one begins in the new keeper.
    tunnelled.stdin.write(b"x" * 100_000)
    tunnelled.stdin.close()
    assert tunnelled.stdout.read() == b"x" * 100_000
    assert tunnelled.wait(LIMIT) == 3
    second = daemon.ssh("echo second; read line; exit 5")
    assert second.stdout is not None
    assert second.stdout.readline() == b"second\n"
    keeper = daemon.status()["pids"]["keeper"]
    assert keeper not in (None, first["keeper"])

    daemon.restart(number)
    daemon.until(lambda status: {old["pid"] for old in status["old_keepers"]} == {first["keeper"], keeper})
    _, error = second.communicate(b"go\n", LIMIT)
    assert second.returncode == 5, error
    terminal.stdin.write(b"on\n")
    terminal.stdin.flush()
    assert b"got on" in terminal.stdout.read()
    assert terminal.wait(LIMIT) == 7
    daemon.until(lambda status: not status["old_keepers"])
    assert not alive(first["keeper"])

    sids = {event["sid"] for event in daemon.events("session.start")}
    wait_for("all ends", lambda: {event["sid"] for event in daemon.events("session.end")} >= sids)
    ended = [event["sid"] for event in daemon.events("session.end")]
    assert sorted(ended) == sorted(set(ended))
    assert {event.get("status") for event in daemon.events("session.end")} >= {3, 5, 7}


@pytest.mark.parametrize("number", ENDS)
def test_recordings_go_on_through_restarts(daemon: Daemon, number: int) -> None:
    config = daemon.cluster.folder / "recording.toml"
    config.write_text('kind = "cluster_config"\nname = "cluster"\nsession_recording = "node"\n')
    assert daemon.cluster.tctl("create", "-f", config).returncode == 0

    def recorded() -> list[dict[str, Any]]:
        found = daemon.cluster.tctl_json("recordings", "ls", "--node", daemon.name)["recordings"]
        return [one for one in found if one["command"].startswith("echo whole")]

    def begun() -> subprocess.Popen[bytes] | None:
        """One that is recorded: the configuration may still be on its way."""
        client = daemon.ssh("-tt", "echo whole; read line; echo got $line; read line; echo and $line")
        assert client.stdout is not None
        assert client.stdout.readline().strip() == b"whole"
        started = wait_for("its start", lambda: daemon.events("session.start"))[-1]
        return client if "recording" in started else None

    try:
        terminal: subprocess.Popen[bytes] = wait_for("a session that is recorded", begun)
        wait_for("its beginning to be stored", lambda: recorded() and recorded()[0]["bytes"])
        daemon.restart(number)
        daemon.until(lambda status: len(status["old_keepers"]) == 1)
        assert terminal.stdin is not None
        assert terminal.stdout is not None
        terminal.stdin.write(b"more\n")
        terminal.stdin.flush()
        assert b"more" in terminal.stdout.readline() + terminal.stdout.readline()
        link = daemon.status()["pids"]["link"]
        os.kill(link, signal.SIGKILL)
        daemon.until(lambda status: status["pids"]["link"] != link and status["tunnel"]["tunnel"] == "up")
        terminal.stdin.write(b"again\n")
        terminal.stdin.flush()
        terminal.wait(LIMIT)
        wait_for("its end", lambda: recorded()[0]["state"] != "live")
        (one,) = [one for one in recorded() if one["lost"] or one["bytes"]]
        shown = daemon.cluster.tctl("recordings", "export", one["id"]).stdout.decode()
        assert (one["state"], one["lost"]) == ("complete", 0), shown
        assert "got more" in shown
        assert "and again" in shown
    finally:
        config.write_text('kind = "cluster_config"\nname = "cluster"\nsession_recording = "off"\n')
        assert daemon.cluster.tctl("create", "-f", config).returncode == 0


def test_a_bulk_transfer_goes_on_through_a_kill(daemon: Daemon) -> None:
    size = 64 * 1024 * 1024
    process = daemon.ssh(f"head -c {size} /dev/zero")
    assert process.stdout is not None
    got = hashlib.sha256(process.stdout.read(1024 * 1024))
    daemon.end(signal.SIGKILL)
    got.update(process.stdout.read(size // 2))
    daemon.start()
    while piece := process.stdout.read(1024 * 1024):
        got.update(piece)
    assert process.wait(LIMIT) == 0
    assert got.digest() == hashlib.sha256(bytes(size)).digest()


def test_what_ends_while_no_daemon_runs_is_told_by_the_next(daemon: Daemon) -> None:
    process = daemon.ssh("echo up; read line; exit 9")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    keeper = daemon.status()["pids"]["keeper"]
    daemon.end(signal.SIGKILL)
    process.communicate(b"go\n", LIMIT)
    assert process.returncode == 9
    wait_for("the keeper to leave", lambda: not alive(keeper))
    assert len(list((daemon.data / "node" / "kept").iterdir())) == 1
    daemon.start()
    wait_for("the end to be told", lambda: [e for e in daemon.events("session.end") if e.get("status") == 9])
    wait_for("the file to go", lambda: not list((daemon.data / "node" / "kept").iterdir()))
    assert len([event for event in daemon.events("session.end") if event.get("status") == 9]) == 1


def test_a_lock_reaches_an_old_keeper(daemon: Daemon) -> None:
    process = daemon.ssh("-tt", "echo up; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"up"
    daemon.restart(signal.SIGKILL)
    daemon.until(lambda status: len(status["old_keepers"]) == 1)
    with locked(daemon.cluster, "off with her"):
        _, error = process.communicate(timeout=LIMIT)
        assert b"off with her" in error, error
        assert process.returncode
        daemon.until(lambda status: not status["old_keepers"])


def test_a_lock_that_was_set_while_no_daemon_ran(daemon: Daemon) -> None:
    process = daemon.ssh("echo up; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    daemon.end(signal.SIGKILL)
    with locked(daemon.cluster, "off with her"):
        daemon.start()
        _, error = process.communicate(timeout=LIMIT)
        assert b"off with her" in error, error


def test_interrupt_ends_everything(daemon: Daemon) -> None:
    first = daemon.ssh("echo up; sleep 1000")
    assert first.stdout is not None
    assert first.stdout.readline() == b"up\n"
    daemon.restart(signal.SIGKILL)
    status = daemon.until(lambda status: len(status["old_keepers"]) == 1)
    second = daemon.ssh("echo up; sleep 1000")
    assert second.stdout is not None
    assert second.stdout.readline() == b"up\n"
    pids = [status["old_keepers"][0]["pid"], daemon.status()["pids"]["keeper"]]
    daemon.end(signal.SIGINT)
    for process in (first, second):
        assert process.wait(LIMIT) == 255
    assert not any(alive(pid) for pid in pids)
    daemon.start()
    wait_for("both ends", lambda: len(daemon.events("session.end")) == 2)
    assert len({event["sid"] for event in daemon.events("session.end")}) == 2


def test_a_reload_takes_what_can_change_and_touches_no_session(daemon: Daemon) -> None:
    process = daemon.ssh("echo up; read line; exit 4")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    pid, keeper = daemon.pid, daemon.status()["pids"]["keeper"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        second: int = free.getsockname()[1]
    listen = f'"127.0.0.1:{daemon.port}", "127.0.0.1:{second}"'
    daemon.configure('banner = "mind the step"\nlabels = { room = "cellar" }\n', listen)
    daemon.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    status = daemon.until(lambda status: status["old_keepers"] and status["tunnel"]["tunnel"] == "up")
    assert status["pid"] == pid
    assert status["listen"] == [f"127.0.0.1:{daemon.port}", f"127.0.0.1:{second}"]
    assert [old["pid"] for old in status["old_keepers"]] == [keeper]

    first, daemon.port = daemon.port, second
    other = daemon.ssh("exit 0")
    _, said = other.communicate(timeout=LIMIT)
    assert b"mind the step" in said
    assert other.returncode == 0

    def labels() -> bool:
        listed = daemon.cluster.tctl_json("nodes", "ls")["nodes"]
        return any("cellar" in json.dumps(node) for node in listed if node["name"] == daemon.name)

    wait_for("the label", labels)
    # The old address goes, the session that came through it stays.
    daemon.configure(listen=f'"127.0.0.1:{second}"')
    daemon.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    daemon.until(lambda status: status["listen"] == [f"127.0.0.1:{second}"] and status["tunnel"]["tunnel"] == "up")

    def closed() -> bool:
        with socket.socket() as stream:
            return stream.connect_ex(("127.0.0.1", first)) != 0

    wait_for("the old address to be closed", closed)
    _, said = process.communicate(b"go\n", LIMIT)
    assert process.returncode == 4, said


def more_refusals(daemon: Daemon, than: int) -> bool:
    return daemon.refusals() > than


def test_a_bad_configuration_changes_nothing(daemon: Daemon) -> None:
    before = daemon.status()
    good = daemon.config.read_text()
    for bad, word in (
        (good + "bannner = 1\n", "bannner"),
        ("[node", "toml"),
        (good.replace(f"127.0.0.1:{daemon.port}", "192.0.2.1:3022"), "192.0.2.1"),
    ):
        daemon.config.write_text(bad)
        refusals = daemon.refusals()
        daemon.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        wait_for(f"the refusal of {word}", functools.partial(more_refusals, daemon, refusals))
        assert word in "\n".join(daemon.log.read_text().splitlines()[-4:])
    daemon.config.write_text(good.replace(str(daemon.data), str(daemon.data.parent / "elsewhere")))
    daemon.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    wait_for("the word", lambda: "only with a restart of the node key=folder" in daemon.log.read_text())
    after = daemon.status()
    assert (after["pids"], after["listen"]) == (before["pids"], before["listen"])
    done = daemon.ssh("exit 6")
    done.communicate(timeout=LIMIT)
    assert done.returncode == 6


def test_a_killed_worker_ends_its_own_connections_alone(daemon: Daemon) -> None:
    first = daemon.ssh("echo up; sleep 1000")
    assert first.stdout is not None
    assert first.stdout.readline() == b"up\n"
    pids = daemon.status()["pids"]
    (worker,) = pids["workers"]
    os.kill(worker, signal.SIGKILL)
    assert first.wait(LIMIT) == 255
    wait_for("the end to be told", lambda: daemon.events("session.end"))
    second = daemon.ssh("echo again")
    assert second.communicate(timeout=LIMIT)[0] == b"again\n"
    assert daemon.status()["pids"]["keeper"] == pids["keeper"]


def test_a_killed_link_ends_no_session(daemon: Daemon) -> None:
    direct, tunnelled = daemon.ssh("read line; exit 3"), daemon.ssh("echo up; read line; exit 4", direct=False)
    assert tunnelled.stdout is not None
    assert tunnelled.stdout.readline() == b"up\n"
    daemon.until(lambda status: status["sessions"] == 2)
    link = daemon.status()["pids"]["link"]
    os.kill(link, signal.SIGKILL)
    daemon.until(lambda status: status["pids"]["link"] not in (None, link) and status["tunnel"]["tunnel"] == "up")
    for process, code in ((direct, 3), (tunnelled, 4)):
        process.communicate(b"go\n", LIMIT)
        assert process.returncode == code
    wait_for("the ends", lambda: {event.get("status") for event in daemon.events("session.end")} == {3, 4})
    assert len(daemon.events("session.end")) == 2


def lost(daemon: Daemon) -> list[str]:
    return [str(event["sid"]) for event in daemon.events("session.end") if event["reason"] == "lost"]


def listed(daemon: Daemon) -> list[str]:
    sessions = daemon.cluster.tctl_json("sessions", "ls")["sessions"]
    return [str(one["id"]) for one in sessions if one["node"] == daemon.name]


@pytest.mark.parametrize("what", ["keeper", "all of it"])
def test_sessions_of_a_killed_keeper_end_in_the_listing(daemon: Daemon, what: str) -> None:
    process = daemon.ssh("echo up; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    (first,) = wait_for("the session", lambda: listed(daemon))
    pids = daemon.status()["pids"]
    if what == "all of it":
        daemon.end(signal.SIGKILL)
    os.kill(pids["keeper"], signal.SIGKILL)
    assert process.wait(LIMIT) == 255
    if what == "all of it":
        daemon.start()
    second = daemon.ssh("echo up; read line")
    assert second.stdout is not None
    assert second.stdout.readline() == b"up\n"
    wait_for("the end of the first", lambda: lost(daemon) == [first])
    wait_for("the second alone", lambda: (found := listed(daemon)) and first not in found and len(found) == 1)
    second.communicate(b"go\n", LIMIT)


def test_sessions_of_an_old_keeper_are_joined(daemon: Daemon) -> None:
    """Somebody looks on in a session, another types, though both come to a keeper that did not begin it."""
    owner = daemon.ssh("-tt", "PS1='ready> ' sh")
    assert owner.stdout is not None
    assert owner.stdin is not None
    shown = b""
    while b"ready> " not in shown:
        shown += os.read(owner.stdout.fileno(), 4096)
    (sid,) = wait_for("the session", lambda: listed(daemon))
    daemon.restart(signal.SIGKILL)
    daemon.until(lambda status: len(status["old_keepers"]) == 1)
    (meeting,) = (daemon.data / "node" / "kept").glob("*.join")
    assert meeting.stat().st_mode & 0o777 == 0o600
    with (
        person(daemon.cluster, "ann", "join", sid) as watcher,
        person(daemon.cluster, "ann", "join", "--mode", "peer", sid) as helper,
    ):
        watcher.sees(b"ready> ")
        helper.sees(b"ready> ")
        watcher.types(b"echo typed-by-$((40+2))\r")
        helper.types(b"echo helped-$((40+2))\r")
        watcher.sees(b"helped-42")
        with person(daemon.cluster, "ann", "join", sid) as passing:
            passing.sees(b"ready> ")
        watcher.sees(b"[ann leaves]")
        parties = wait_for("all in the list", lambda: _parties(daemon, sid, 2))
        assert sorted(party["mode"] for party in parties) == ["observer", "peer"]
        owner.stdin.write(b"exit 3\n")
        owner.stdin.flush()
        assert watcher.ends() == 0
        assert helper.ends() == 0
        assert b"typed-by" not in watcher.said
    assert owner.wait(LIMIT) == 3
    daemon.until(lambda status: not status["old_keepers"])
    wait_for("the meeting place to go", lambda: not meeting.exists())
    done = daemon.cluster.tsh("join", "0" * 32, home="ann")
    assert done.returncode
    assert b"Traceback" not in done.stderr


def _parties(daemon: Daemon, sid: str, count: int) -> list[dict[str, Any]]:
    sessions = daemon.cluster.tctl_json("sessions", "ls")["sessions"]
    found: list[dict[str, Any]] = next((one.get("parties", []) for one in sessions if one["id"] == sid), [])
    return found if len(found) == count else []


def test_a_killed_keeper_takes_its_sessions_and_is_replaced(daemon: Daemon) -> None:
    mark = daemon.data / "hup"
    process = daemon.ssh("-tt", f"trap 'touch {mark}; exit' HUP; echo up; while :; do sleep 0.05; done")
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"up"
    keeper = daemon.status()["pids"]["keeper"]
    os.kill(keeper, signal.SIGKILL)
    assert process.wait(LIMIT) == 255
    wait_for("SIGHUP", mark.exists)
    again = daemon.ssh("echo again")
    assert again.communicate(timeout=LIMIT)[0] == b"again\n"
