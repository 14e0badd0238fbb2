"""Forwarding through a real keeper, worker and helper: who may, what is said, what is left."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.interop.forwarding import answers, echo_at_end, exchange, serving
from tests.node.session_harness import LIMIT, LOGIN, Rig, name_of, wait_for
from tests.ports import free_port


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path).start()
    yield rig
    rig.stop()


def roles(rig: Rig, **options: object) -> dict[str, object]:
    made: dict[str, Any] = json.loads(json.dumps(rig.authority.roles))
    made["ops"]["options"] = options
    return made


def helpers(rig: Rig) -> list[int]:
    children = Path(f"/proc/{rig.pid}/task/{rig.pid}/children").read_text().split()
    return [int(pid) for pid in children if name_of(int(pid)) == "tinyport-fwd"]


def ended(stream: socket.socket) -> bool:
    """Whether the other side closes ``stream``. What it had not read yet makes a reset of its close."""
    try:
        return stream.recv(1) == b""
    except ConnectionResetError:
        return True


@contextmanager
def forwarding(rig: Rig, *options: str, login: str = LOGIN) -> Iterator[subprocess.Popen[bytes]]:
    """ssh with these options and a session that says ``ready``."""
    command = rig.command("echo ready; cat", login=login)
    command[1:1] = ["-o", "ExitOnForwardFailure=yes", *options]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said == b"ready\n", process.communicate()[1]
        yield process
    finally:
        process.communicate(timeout=LIMIT)


def test_roles_decide_where_to(rig: Rig) -> None:
    with serving(echo_at_end) as server:
        allowed = {"local": [f"localhost:{server.port}"]}
        rig.install(rig.authority.policy(roles=roles(rig, port_forwarding=allowed)))
        done = rig.ssh(options=("-W", f"localhost:{server.port}"), input=b"x")
        assert (done.returncode, done.stdout) == (0, b"x"), done.stderr
        done = rig.ssh(options=("-W", f"127.0.0.1:{server.port}"), input=b"x")
    # OpenSSH's words for SSH_OPEN_ADMINISTRATIVELY_PROHIBITED, and ours.
    assert b"administratively prohibited: your roles do not permit forwarding to 127.0.0.1" in done.stderr
    refused = rig.event("port.failed")
    assert (refused["code"], refused["target"]) == ("T3003E", f"127.0.0.1:{server.port}")
    assert rig.event("port")["target"] == f"localhost:{server.port}"


def test_roles_decide_about_listening(rig: Rig) -> None:
    rig.install(rig.authority.policy(roles=roles(rig, port_forwarding="local")))
    done = rig.ssh(options=("-v", "-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"))
    assert done.returncode == 255
    assert b"your roles do not permit listening on localhost:0" in done.stderr
    assert rig.event("port.listen.failed")["target"] == "localhost:0"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Options that forward an agent, which ssh finds there and hears nothing from."""
    with serving(lambda stream: None, tmp_path / "a"):
        yield agent_options(tmp_path / "a")


def agent_options(path: Path) -> tuple[str, ...]:
    return "-o", f"IdentityAgent={path}", "-o", "ForwardAgent=yes"


def test_the_agent_is_for_roles_that_say_so(rig: Rig, agent: tuple[str, ...]) -> None:
    rig.give_certificate(permits=["pty", "agent"])
    done = rig.ssh("echo ${SSH_AUTH_SOCK:-none}", options=agent)
    assert done.stdout == b"none\n", done.stderr
    assert rig.event("agent.forward.failed")["reason"] == "your roles do not permit agent forwarding"
    rig.install(rig.authority.policy(roles=roles(rig, forward_agent=True)))
    done = rig.ssh("echo ${SSH_AUTH_SOCK:-none}", options=agent)
    assert done.stdout.startswith(b"/tmp/ssh-"), done.stderr
    assert rig.event("agent.forward")["code"] == "T3011I"


def test_x11_is_for_roles_that_say_so(rig: Rig) -> None:
    rig.give_certificate(permits=["pty", "x11"])
    env = {**os.environ, "DISPLAY": ":9"}
    done = rig.ssh("echo ${DISPLAY:-none}", options=("-o", "ForwardX11Trusted=yes", "-X"), env=env)
    assert done.stdout == b"none\n", done.stderr
    assert b"X11 forwarding request failed" in done.stderr
    assert rig.event("x11.forward.failed")["reason"] == "your roles do not permit X11 forwarding"


@pytest.mark.parametrize("permit", ["port_forwarding", "agent"])
def test_certificates_withhold(rig: Rig, agent: tuple[str, ...], permit: str) -> None:
    rig.install(rig.authority.policy(roles=roles(rig, forward_agent=True)))
    rig.give_certificate(permits=["pty", *({"agent", "port_forwarding"} - {permit})])
    forwarded = rig.ssh(options=("-W", "127.0.0.1:1"))
    sock = rig.ssh("echo ${SSH_AUTH_SOCK:-none}", options=agent)
    assert (b"prohibited" in forwarded.stderr) is (permit == "port_forwarding"), forwarded.stderr
    assert (sock.stdout == b"none\n") is (permit == "agent"), sock.stderr


def test_a_forced_command_forbids_no_forwarding(rig: Rig) -> None:
    rig.give_certificate(critical_options={"force-command": "echo forced"})
    with serving(echo_at_end) as server:
        assert rig.ssh(options=("-W", f"localhost:{server.port}"), input=b"x").stdout == b"x"


def test_bad_targets_are_refused_in_words(rig: Rig) -> None:
    async def tries() -> list[str]:
        said = []
        async with await connect(rig) as connection:
            for host, port in (("", 1), ("h" * 300, 1), ("localhost", 0), ("a b", 1), ("a\n", 1), ("\ud800", 1)):
                try:
                    await connection.open_connection(host.encode("utf-8", "surrogatepass").decode("latin-1"), port)
                except asyncssh.ChannelOpenError as error:
                    said.append(error.reason)
            for path in ("relative", "/" + "x" * 200, "/a\0b", ""):
                try:
                    await connection.open_unix_connection(path)
                except asyncssh.ChannelOpenError as error:
                    said.append(error.reason)
            done = await connection.run("echo alive")
            assert done.stdout == "alive\n"
        return said

    said = asyncio.run(tries())
    assert len(said) == 10
    assert "a worker is ended" not in rig.log()


async def connect(rig: Rig) -> asyncssh.SSHClientConnection:
    certificate = asyncssh.import_certificate((rig.folder / "id-cert.pub").read_text())
    key = asyncssh.import_private_key(rig.key.read_bytes())
    return await asyncssh.connect(
        "127.0.0.1",
        rig.port,
        username=LOGIN,
        client_keys=[(key, certificate)],
        known_hosts=None,
        config=None,
        agent_path=None,
    )


def test_ten_thousand_channels_are_somebody_elses_problem(rig: Rig) -> None:
    """Most are refused, at once and by name; the worker stays, and others get in."""

    def hold(stream: socket.socket) -> None:
        stream.recv(1)

    async def flood(port: int) -> tuple[int, int]:
        async def one() -> int:
            try:
                await connection.open_connection("127.0.0.1", port)
            except asyncssh.ChannelOpenError as error:
                return error.code
            return 0

        async with await connect(rig) as connection:
            opened = await asyncio.gather(*(one() for _ in range(10_000)))
            other = await asyncio.to_thread(rig.ssh, "echo in")
            assert other.stdout == b"in\n", other.stderr
        return opened.count(0), opened.count(asyncssh.OPEN_RESOURCE_SHORTAGE)

    with serving(hold) as server:
        opened, refused = asyncio.run(flood(server.port))
    assert 0 < opened <= 256
    assert opened + refused == 10_000
    assert rig.ssh("echo again").stdout == b"again\n"
    # One target, told once.
    assert len([event for event in rig.events if event["event"] == "port"]) == 1


def test_a_flood_of_global_requests_ends_that_connection_alone(rig: Rig) -> None:
    async def flood() -> None:
        connection = await connect(rig)
        for _ in range(5000):
            connection._send_global_request(b"tcpip-forward", b"\0\0\0\x09localhost\0\0\0\0", want_reply=True)
        await connection.wait_closed()

    with forwarding(rig) as process:
        asyncio.run(asyncio.wait_for(flood(), LIMIT))
        assert process.poll() is None
    assert "a worker is ended" not in rig.log()


def test_a_listener_that_is_cancelled_is_gone_and_another_unknown(rig: Rig) -> None:
    async def use() -> None:
        async with await connect(rig) as connection:
            listener = await connection.forward_remote_port("", 0, "127.0.0.1", 1)
            port = listener.get_port()
            assert answers(("127.0.0.1", port))
            listener.close()
            await listener.wait_closed()
            assert not answers(("127.0.0.1", port))
            # asyncssh's server would end the connection here.
            unknown = b"\0\0\0\x09localhost\0\0\0\x09"
            failed, _ = await connection._make_global_request(b"cancel-tcpip-forward", unknown)
            assert failed == 82
            assert (await connection.run("echo alive")).stdout == "alive\n"

    asyncio.run(use())


def test_a_lock_ends_the_helper_and_what_it_made(rig: Rig) -> None:
    port = free_port()
    path = Path(f"/tmp/tp-{os.getpid()}-{port}")
    with forwarding(rig, "-R", f"{port}:127.0.0.1:1", "-R", f"{path}:127.0.0.1:1"):
        assert path.is_socket()
        (helper,) = helpers(rig)
        lock = {"id": "1", "target": {"user": "alice"}, "expires": None, "message": ""}
        rig.install(rig.authority.policy(locks=[lock]))
        wait_for("the helper to end", lambda: not Path(f"/proc/{helper}").exists())
        assert not answers(("127.0.0.1", port))
        assert not path.exists()


def test_a_role_that_is_changed_closes_listeners(rig: Rig) -> None:
    port, other = free_port(), free_port()
    with forwarding(rig, "-R", f"{port}:127.0.0.1:1", "-R", f"{other}:127.0.0.1:1"):
        allowed = {"remote": [f"localhost:{other}"]}
        rig.install(rig.authority.policy(roles=roles(rig, port_forwarding=allowed)))
        wait_for("the listener to close", lambda: not answers(("127.0.0.1", port)))
        assert answers(("127.0.0.1", other))


def test_a_role_that_is_changed_closes_what_is_open(rig: Rig) -> None:
    async def use() -> None:
        async with await connect(rig) as connection:
            session = await connection.create_process("cat")
            with serving(echo_at_end) as one, serving(echo_at_end) as other:
                reading, writing = await connection.open_connection("127.0.0.1", one.port)
                staying, written = await connection.open_connection("127.0.0.1", other.port)
                listener = await connection.forward_remote_port("localhost", 0, "127.0.0.1", other.port)
                with socket.create_connection(("127.0.0.1", listener.get_port()), timeout=LIMIT) as through:
                    through.sendall(b"x")
                    writing.write(b"lost")
                    written.write(b"kept")
                    allowed = {"local": [f"127.0.0.1:{other.port}"]}
                    policy = rig.authority.policy(roles=roles(rig, port_forwarding=allowed))
                    await asyncio.to_thread(rig.install, policy)
                    assert await asyncio.wait_for(reading.read(), LIMIT) == b""
                    assert await asyncio.to_thread(ended, through)
                written.write_eof()
                assert await asyncio.wait_for(staying.read(), LIMIT) == b"kept"
            session.stdin.write("here\n")
            assert await asyncio.wait_for(session.stdout.readline(), LIMIT) == "here\n"

    asyncio.run(use())


def test_a_helper_that_is_killed_is_started_again(rig: Rig) -> None:
    async def use() -> None:
        async with await connect(rig) as connection:
            with serving(echo_at_end) as server:
                for _ in range(2):
                    listener = await connection.forward_remote_port("localhost", 0, "127.0.0.1", server.port)
                    echoed = await asyncio.to_thread(exchange, ("127.0.0.1", listener.get_port()), b"again")
                    assert echoed == b"again"
                    (helper,) = helpers(rig)
                    os.kill(helper, signal.SIGKILL)
                    await asyncio.to_thread(wait_for, "it to end", lambda: helpers(rig) == [])

    asyncio.run(use())


def test_a_command_finds_the_port_that_it_was_given(rig: Rig) -> None:
    """ssh asks for the port and starts the command without waiting for an answer."""
    for _ in range(3):
        port = free_port()
        done = rig.ssh(f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected", options=("-R", f"{port}:127.0.0.1:1"))
        assert done.stdout == b"connected\n", done.stderr


def test_somebody_who_connects_more_than_the_client_takes(rig: Rig) -> None:
    """Three hundred at once on a remote port: none lost, none more than the helper may hold."""
    with serving(echo_at_end) as server:
        port = free_port()
        with forwarding(rig, "-R", f"{port}:127.0.0.1:{server.port}"):
            streams = [socket.create_connection(("127.0.0.1", port), timeout=LIMIT) for _ in range(200)]
            for stream in streams:
                stream.sendall(b"x")
                stream.shutdown(socket.SHUT_WR)
            for stream in streams:
                with stream:
                    assert stream.recv(10) == b"x"
    assert "helper is ended" not in rig.log()


# ---------------------------------------------------------------------------- as root

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def root_rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, privileged=True, user={"uid": NOBODY.pw_uid, "gid": NOBODY.pw_gid}).start()
    rig.install(rig.authority.policy(roles=roles(rig, forward_agent=True)))
    rig.give_certificate(logins=["games"], permits=["pty", "port_forwarding", "agent"])
    yield rig
    rig.stop()


GAMES = pwd.getpwnam("games")


def owner_of_port(port: int) -> set[int]:
    """Who listens there, by the kernel's list."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
                found.add(int(fields[7]))
    return found


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")
def test_what_is_opened_is_the_users(root_rig: Rig) -> None:
    rig, port = root_rig, free_port()
    folder = Path(f"/tmp/tp-{os.getpid()}-{port}")
    folder.mkdir(mode=0o700)
    os.chown(folder, GAMES.pw_uid, GAMES.pw_gid)
    peers: list[tuple[int, int, int]] = []

    def credentials(stream: socket.socket) -> None:
        peers.append(struct.unpack("iII", stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
        echo_at_end(stream)

    made, there, private = folder / "made", folder / "there", rig.folder / "private"
    here, refused = rig.folder / "here", rig.folder / "refused"
    command = rig.command("sftp", login="games")
    agent = rig.folder / "agent"
    command[1:1] = ["-s", "-o", "ExitOnForwardFailure=yes", *agent_options(agent)]
    command[1:1] = ["-R", f"{port}:127.0.0.1:1", "-R", f"{made}:127.0.0.1:1"]
    command[1:1] = ["-L", f"{here}:{there}", "-L", f"{refused}:{private}"]
    try:
        with serving(credentials, there), serving(echo_at_end, private), serving(lambda stream: None, agent):
            os.chmod(there, 0o666)
            os.chmod(private, 0o600)
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            (helper,) = wait_for("a helper", lambda: helpers(rig))
            (theirs,) = wait_for("the agent", lambda: list(Path("/tmp").glob(f"ssh-*/agent.{helper}")))
            assert (theirs.stat().st_uid, theirs.stat().st_mode & 0o777) == (GAMES.pw_uid, 0o600)
            assert (theirs.parent.stat().st_uid, theirs.parent.stat().st_mode & 0o777) == (GAMES.pw_uid, 0o700)
            assert owner_of_port(port) == {GAMES.pw_uid}
            assert (made.stat().st_uid, made.stat().st_mode & 0o777) == (GAMES.pw_uid, 0o600)
            assert exchange(str(here), b"who") == b"who"
            # Root's own socket: the kernel says no to the user.
            assert exchange(str(refused), b"") == b""
            fields = (line.partition(":") for line in Path(f"/proc/{helper}/status").read_text().splitlines())
            status = {name: value.split() for name, _, value in fields}
            _, errors = process.communicate(timeout=LIMIT)
        assert b"open failed: connect failed: Permission denied" in errors
        assert {(uid, gid) for _, uid, gid in peers} == {(GAMES.pw_uid, GAMES.pw_gid)}
        assert status["Uid"] == [str(GAMES.pw_uid)] * 4
        assert status["Gid"] == [str(GAMES.pw_gid)] * 4
        assert {int(status[name][0], 16) for name in ("CapPrm", "CapEff", "CapAmb")} == {0}
        wait_for("what was made to go", lambda: not made.exists() and not theirs.parent.exists())
    finally:
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")
def test_low_ports_are_not_the_users(root_rig: Rig) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 81:
        pytest.skip("this kernel gives low ports to everybody")
    options = ("-v", "-N", "-o", "ExitOnForwardFailure=yes", "-R", "81:127.0.0.1:1")
    done = root_rig.ssh(options=options, login="games")
    assert done.returncode == 255
    assert b"Permission denied" in done.stderr
