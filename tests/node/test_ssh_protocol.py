"""SSH as the worker speaks it: who vanishes is noticed, and what OpenSSH hardened holds here, too."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import MSG_IGNORE
from asyncssh.kex import get_kex_algs
from asyncssh.packet import String

from tests.node.session_harness import LIMIT, LOGIN, Rig, wait_for

MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeRig]:
    rigs: list[Rig] = []

    def make(**changes: object) -> Rig:
        rigs.append(Rig(tmp_path, worker_idle=60, **changes).start())
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.stop()


def connect(rig: Rig, **more: Any) -> Any:
    key = asyncssh.read_private_key(rig.folder / "id")
    certificate = asyncssh.read_certificate(rig.folder / "id-cert.pub")
    options = {"known_hosts": None, "config": None, "agent_path": None, **more}
    return asyncssh.connect("127.0.0.1", rig.port, username=LOGIN, client_keys=[(key, certificate)], **options)


def test_a_client_that_vanished_is_noticed(make_rig: MakeRig) -> None:
    rig = make_rig(limits={"client_alive": 0.2})
    process = rig.popen("echo $$; cat")
    assert process.stdout is not None
    shell = int(process.stdout.readline())
    # Silent as one whose machine lost its power: its socket is open, and nobody answers.
    os.kill(process.pid, signal.SIGSTOP)
    wait_for("the session to end", lambda: not Path(f"/proc/{shell}").exists())
    os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 255


def test_a_client_that_answers_stays(make_rig: MakeRig) -> None:
    rig = make_rig(limits={"client_alive": 0.1})
    done = rig.ssh("sleep 1.5; echo still")
    assert (done.returncode, done.stdout) == (0, b"still\n")


def test_nothing_is_slipped_in_before_the_keys(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Terrapin (CVE-2023-48795): a packet put in before encryption shifts what comes after. Strict key exchange, which
    both sides offer, makes it the end of the connection."""
    rig = make_rig()

    async def run() -> str:
        async with connect(rig) as connection:
            done = await connection.run("echo in", check=True)
            return str(done.stdout)

    assert asyncio.run(run()) == "in\n"
    plain = asyncssh.SSHClientConnection._send_kexinit

    def with_more(connection: Any) -> None:
        plain(connection)
        connection.send_packet(MSG_IGNORE, String(b""))

    monkeypatch.setattr(asyncssh.SSHClientConnection, "_send_kexinit", with_more)
    with pytest.raises((asyncssh.Error, OSError)):
        asyncio.run(run())


@pytest.mark.parametrize("kex", ["mlkem768x25519-sha256", "sntrup761x25519-sha512@openssh.com"])
def test_hybrid_key_exchange_where_the_library_has_it(make_rig: MakeRig, kex: str) -> None:
    rig = make_rig()

    async def run(names: list[str]) -> str:
        async with connect(rig, kex_algs=names) as connection:
            done = await connection.run("echo in", check=True)
            return str(done.stdout)

    if kex.encode() in get_kex_algs():
        assert asyncio.run(run([kex])) == "in\n"
    else:
        # Not offered, and that is no harm to whoever would like it best.
        assert asyncio.run(run(["curve25519-sha256"])) == "in\n"
