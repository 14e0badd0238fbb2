"""Requests on a session's channel and around it, as sshd answers them."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncssh.packet import Boolean, String, UInt32

from tests.node.raw_client import (
    CLOSE,
    CONFIRMATION,
    DATA,
    EOF,
    EXTENDED_DATA,
    FAILURE,
    GLOBAL_REQUEST,
    OPEN,
    OPEN_FAILURE,
    REQUEST,
    REQUEST_FAILURE,
    REQUEST_SUCCESS,
    SUCCESS,
    RawClient,
    raw_client,
)
from tests.node.session_harness import Rig

TERMINAL = (b"pty-req", String(b"xterm"), UInt32(80), UInt32(24), UInt32(0), UInt32(0), String(b"\0"))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("rig"), worker_idle=60).start()
    yield rig
    rig.stop()


def with_client(rig: Rig, what: Callable[[RawClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with raw_client(rig) as client:
            return await what(client)

    return asyncio.run(run())


async def answer(client: RawClient, channel: int, name: bytes, *parts: bytes) -> bool:
    """Make a request and say whether it was granted."""
    count = sum(kind in (SUCCESS, FAILURE) for kind, _ in client.got)
    client.request(channel, name, *parts, reply=True)
    while True:
        answers = [kind for kind, _ in client.got if kind in (SUCCESS, FAILURE)]
        if len(answers) > count:
            return answers[-1] == SUCCESS
        assert not client.connection.is_closed(), client.disconnected
        await asyncio.sleep(0)


def told(client: RawClient, name: bytes) -> list[bytes]:
    """What came with the requests of this name."""
    start = String(name)
    return [
        payload[4 + len(start) :] for kind, payload in client.got if kind == REQUEST and payload[4:].startswith(start)
    ]


# ---------------------------------------------------------------------- variables


@pytest.mark.parametrize(
    ("name", "value", "granted"),
    [
        (b"LC_TIME", b"C", True),
        (b"LC_MY_OWN", b"x", True),
        (b"LC_", b"x", False),
        (b"LC_A=B", b"x", False),
        (b"LC_\xe9", b"x", False),
        (b"LC_X", b"a\0b", False),
        (b"PATH", b"/x", False),
    ],
)
def test_variables_are_answered_one_by_one(rig: Rig, name: bytes, value: bytes, granted: bool) -> None:
    async def run(client: RawClient) -> None:
        channel = await client.open_session()
        assert await answer(client, channel, b"env", String(name), String(value)) is granted
        assert await answer(client, channel, b"exec", String(b'printf %s "$LC_TIME$LC_MY_OWN$LC_X"'))
        await client.wait(CLOSE)
        assert b"".join(payload[8:] for kind, payload in client.got if kind == DATA) == (value if granted else b"")

    with_client(rig, run)


def test_what_comes_after_the_start_is_refused(rig: Rig) -> None:
    async def run(client: RawClient) -> None:
        channel = await client.open_session()
        assert await answer(client, channel, *TERMINAL)
        assert not await answer(client, channel, *TERMINAL)
        assert await answer(client, channel, b"exec", String(b"echo ready; cat"))
        for request in (
            (b"exec", String(b"echo twice")),
            (b"shell",),
            (b"subsystem", String(b"sftp")),
            (b"env", String(b"LC_TIME"), String(b"C")),
            TERMINAL,
            (b"auth-agent-req@openssh.com",),
            (b"nobody@example.org",),
        ):
            assert not await answer(client, channel, *request), request
        assert await answer(client, channel, b"window-change", *(UInt32(number) for number in (100, 50, 0, 0)))

    with_client(rig, run)


# ---------------------------------------------------------------------- signals


def test_signals_have_an_answer(rig: Rig) -> None:
    async def run(client: RawClient) -> None:
        channel = await client.open_session()
        assert not await answer(client, channel, b"signal", String(b"TERM"))
        command = b"trap 'echo got; exit 4' USR1; echo ready; while :; do sleep 0.05; done"
        assert await answer(client, channel, b"exec", String(command))
        await client.data(6)
        for name in (b"FOO", b"STOP", b"INFO@openssh.com", b"\xff", b""):
            assert not await answer(client, channel, b"signal", String(name)), name
        assert await answer(client, channel, b"signal", String(b"USR1"))
        await client.wait(CLOSE)
        assert told(client, b"exit-status") == [Boolean(False) + UInt32(4)]

    with_client(rig, run)


@pytest.mark.parametrize(
    ("number", "name"),
    [("HUP", b"HUP"), ("KILL", b"KILL"), ("BUS", b"BUS@tinyport.dev"), ("XCPU", b"XCPU@tinyport.dev")],
)
def test_names_of_signals_are_the_protocols(rig: Rig, number: str, name: bytes) -> None:
    """RFC 4254 section 6.10: what is not in its list has somebody's name behind it."""

    async def run(client: RawClient) -> None:
        channel = await client.open_session()
        client.request(channel, b"exec", String(f"ulimit -c 0; kill -{number} $$".encode()))
        await client.wait(CLOSE)
        (found,) = told(client, b"exit-signal")
        assert found.startswith(Boolean(False) + String(name) + Boolean(False))
        assert told(client, b"exit-status") == []

    with_client(rig, run)


def test_a_forced_command_takes_no_signals(tmp_path: Path) -> None:
    """As sshd: what somebody is made to run is not theirs to end. It hears of their leaving, though."""
    rig = Rig(tmp_path, worker_idle=60).start()
    try:
        rig.give_certificate(critical_options={"force-command": "trap 'echo got' TERM USR1; echo ready; cat"})

        async def run(client: RawClient) -> None:
            channel = await client.open_session()
            client.request(channel, b"shell")
            await client.data(6)
            for name in (b"TERM", b"KILL", b"USR1"):
                client.request(channel, b"signal", String(name))
            # Behind the signals on the way to the keeper, and answered by it.
            other = await client.open_session(1)
            client.request(other, b"exec", String(b"x"), reply=True)
            await client.wait(SUCCESS, lambda payload: payload[:4] == UInt32(1))
            client.send(DATA, UInt32(channel), String(b"on\n"))
            client.send(EOF, UInt32(channel))
            await client.wait(CLOSE)
            mine = [payload[8:] for kind, payload in client.got if kind == DATA and payload[:4] == UInt32(0)]
            assert b"".join(mine) == b"ready\non\n"
            assert told(client, b"exit-status") == [Boolean(False) + UInt32(0)]

        with_client(rig, run)
    finally:
        rig.stop()


# ---------------------------------------------------------------------- streams


def test_a_client_that_wants_no_more_output(rig: Rig) -> None:
    """OpenSSH's PROTOCOL section 2.1: the command hears of it as on a closed pipe; errors and the end still come."""

    async def run(client: RawClient) -> None:
        channel = await client.open_session()
        command = b"(while echo y; do :; done) 2>/dev/null; echo stopped >&2; exit 3"
        client.request(channel, b"exec", String(command))
        await client.data(2)
        client.request(channel, b"eow@openssh.com")
        client.send(93, UInt32(channel), UInt32(2**30))
        await client.wait(CLOSE)
        errors = [payload[12:] for kind, payload in client.got if kind == EXTENDED_DATA]
        assert b"".join(errors) == b"stopped\n"
        assert told(client, b"exit-status") == [Boolean(False) + UInt32(3)]

    with_client(rig, run)


def test_a_terminal_goes_on_though_its_output_is_not_wanted(rig: Rig) -> None:
    async def run(client: RawClient) -> None:
        channel = await client.open_session()
        client.request(channel, *TERMINAL)
        client.request(channel, b"exec", String(b"echo ready; read line; exit 5"))
        await client.data(7)
        client.request(channel, b"eow@openssh.com")
        client.send(DATA, UInt32(channel), String(b"x\n"))
        await client.wait(CLOSE)
        assert told(client, b"exit-status") == [Boolean(False) + UInt32(5)]

    with_client(rig, run)


# ---------------------------------------------------------------------- what is not there


def test_an_unknown_subsystem_leaves_the_channel_for_something_else(rig: Rig) -> None:
    """RFC 4254 section 6.5: psftp asks for another way then."""

    async def run(client: RawClient) -> None:
        channel = await client.open_session()
        assert not await answer(client, channel, b"subsystem", String(b"netconf"))
        (said,) = [payload[12:] for kind, payload in client.got if kind == EXTENDED_DATA]
        assert said == b"tinyport: there is no subsystem 'netconf' on this node\n"
        assert await answer(client, channel, b"exec", String(b"exit 6"))
        await client.wait(CLOSE)
        assert told(client, b"exit-status") == [Boolean(False) + UInt32(6)]

    with_client(rig, run)
    done = rig.ssh("-s", "netconf")
    assert done.returncode == 255
    assert b"subsystem request failed" in done.stderr


def test_no_more_sessions(rig: Rig) -> None:
    """OpenSSH's PROTOCOL section 2.2. Those that are open go on."""

    async def run(client: RawClient) -> None:
        channel = await client.open_session()
        client.send(GLOBAL_REQUEST, String(b"no-more-sessions@openssh.com"), Boolean(True))
        await client.wait(REQUEST_SUCCESS)
        client.send(OPEN, String(b"session"), UInt32(1), UInt32(2**20), UInt32(32768))
        assert b"no more sessions" in await client.wait(OPEN_FAILURE)
        assert len([kind for kind, _ in client.got if kind == CONFIRMATION]) == 1
        assert await answer(client, channel, b"exec", String(b"exit 0"))
        await client.wait(CLOSE)

    with_client(rig, run)


def test_global_requests_that_nobody_knows_are_answered(rig: Rig) -> None:
    async def run(client: RawClient) -> None:
        client.send(GLOBAL_REQUEST, String(b"nobody@example.org"), Boolean(False))
        client.send(GLOBAL_REQUEST, String(b"nobody@example.org"), Boolean(True))
        await client.wait(REQUEST_FAILURE)
        client.send(GLOBAL_REQUEST, String(b"keepalive@openssh.com"), Boolean(True))
        while sum(kind in (REQUEST_SUCCESS, REQUEST_FAILURE) for kind, _ in client.got) < 2:
            await asyncio.sleep(0)
        assert sum(kind in (REQUEST_SUCCESS, REQUEST_FAILURE) for kind, _ in client.got) == 2

    with_client(rig, run)


def test_zero_bytes_in_a_command(rig: Rig) -> None:
    async def run(client: RawClient) -> None:
        channel = await client.open_session()
        client.request(channel, b"exec", String(b"echo a\0b"))
        await client.wait(CLOSE)
        assert [kind for kind, _ in client.got if kind == DATA] == []
        assert told(client, b"exit-status") == [Boolean(False) + UInt32(255)]

    with_client(rig, run)


# ---------------------------------------------------------------------- statuses of commands that do not run


def test_a_command_that_is_not_there_or_no_program(rig: Rig) -> None:
    assert rig.ssh("/does/not/exist").returncode == 127
    assert rig.ssh("/etc/passwd").returncode == 126


def test_neither_input_nor_a_command(rig: Rig) -> None:
    """``ssh -N`` opens no session, ``ssh -f`` one that goes on without its client's terminal."""
    rig.ssh("exit 0 # before")
    rig.event("exec", command="exit 0 # before")
    started = len([event for event in rig.events if event["event"] == "session.start"])
    waiting = rig.command()
    waiting[1:1] = ["-N", "-v"]
    with subprocess.Popen(waiting, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as client:
        assert client.stderr is not None
        for line in client.stderr:
            if b"Entering interactive session" in line:
                break
        client.terminate()
        client.stderr.read()
    rig.ssh("exit 0 # after")
    rig.event("exec", command="exit 0 # after")
    assert len([event for event in rig.events if event["event"] == "session.start"]) == started + 1
    done = rig.ssh("echo from behind", options=("-f",))
    assert (done.returncode, done.stdout) == (0, b"from behind\n")
    done = rig.ssh("cat; echo end", options=("-n",), input=b"not read\n")
    assert (done.returncode, done.stdout) == (0, b"end\n")


def test_without_a_terminal_when_told_so(rig: Rig) -> None:
    done = rig.ssh(options=("-T",), input=b"tty; exit 7\n")
    assert (done.returncode, done.stdout) == (7, b"not a tty\n")
