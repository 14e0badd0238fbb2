"""What asyncssh does not do as an sshd, or does wrongly: each a test here, or the test that is named.

Elsewhere: options built once and no threads (``tests/security/test_confinement.py``, where there are none), environment
by allow-list (``test_session_plan``), algorithms (``tests/interop/test_ssh_audit.py``), agent, X11, ports as the user
(``test_forward``), the sftp server as the user (``test_keeper_privileged``), tries (``test_keeper_table``), pings
(``test_worker_extensions``), sessions and packets without end (``test_session``, ``test_worker_packets``), dropbear and
its guess (``tests/interop/test_other_clients.py``), certificates without principals (``test_session``), the clock of
certificates and addresses that are not known (``tests/core/test_access.py``), start-ups and penalties
(``tests/scenarios/test_floods.py``, ``test_link_penalties``), login grace (``test_keeper_startups``), keepalives
(``test_ssh_protocol``), the oldest libraries (``tests/compatibility``), what is not loaded (``test_module_allowlist``).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.node.session_harness import LIMIT, LOGIN, Rig, wait_for
from tinyport.core.certificate import certificate_line
from tinyport.core.signatures import Ed25519Key


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("rig"), worker_idle=60).start()
    yield rig
    rig.stop()


def connect(rig: Rig) -> Any:
    key = asyncssh.read_private_key(rig.folder / "id")
    certificate = asyncssh.read_certificate(rig.folder / "id-cert.pub")
    return asyncssh.connect(
        "127.0.0.1",
        rig.port,
        username=LOGIN,
        client_keys=[(key, certificate)],
        known_hosts=None,
        config=None,
        agent_path=None,
    )


def test_redirection_that_loses_the_tail(rig: Rig) -> None:
    """Whichever of output and errors ends first must not end the channel: with asyncssh's own, 3 to 9 runs in 16."""
    for first, second in (("1", "2"), ("2", "1")):
        for _ in range(8):
            done = rig.ssh(f"head -c 3000000 /dev/zero >&{first}; echo end >&{second}; exit 5")
            sizes = {"1": len(done.stdout), "2": len(done.stderr)}
            assert (done.returncode, sizes[first], sizes[second]) == (5, 3_000_000, 4)


def test_a_child_that_closes_its_input_early_disturbs_no_other_session(rig: Rig) -> None:
    async def run() -> None:
        async with connect(rig) as connection:
            other = await connection.create_process("cat", encoding=None)
            for _ in range(5):
                process = await connection.create_process("exec 0<&-; exit 3", encoding=None)
                try:
                    for _ in range(64):
                        process.stdin.write(bytes(65536))
                        await process.stdin.drain()
                except (BrokenPipeError, ConnectionError):
                    # It ended while we were writing, as it should.
                    pass
                await process.wait()
                assert process.exit_status == 3
            other.stdin.write(b"still here")
            other.stdin.write_eof()
            done = await other.wait()
            assert (done.stdout, done.exit_status) == (b"still here", 0)

    asyncio.run(run())


def test_data_and_its_end_before_there_is_a_process(rig: Rig) -> None:
    """Both may come in one packet with the request, long before the keeper has answered."""

    async def run() -> None:
        async with connect(rig) as connection:
            for _ in range(10):
                done = await connection.run("cat; echo; cat", input=b"x" * 200_000, encoding=None)
                assert (done.stdout, done.exit_status) == (b"x" * 200_000 + b"\n", 0)

    asyncio.run(run())


@pytest.mark.parametrize("option", ["verify-required", "surprise@example.org"])
def test_a_critical_option_that_is_not_known_is_refused(tmp_path: Path, option: str) -> None:
    """asyncssh looks at those it knows and lets the others pass."""
    rig = Rig(tmp_path, worker_idle=60).start()
    try:
        rig.give_certificate(critical_options={option: ""})
        done = rig.ssh("true")
        assert done.returncode == 255
        assert b"critical option that is not known here" in done.stderr
    finally:
        rig.stop()


@pytest.mark.parametrize("refused", [{"force-command": "echo refused"}, {}], ids=["forced before", "forced after"])
def test_options_of_a_key_that_was_refused_do_not_stay(tmp_path: Path, refused: dict[str, str]) -> None:
    """asyncssh before 2.24 keeps what an earlier key of the same connection brought."""
    rig = Rig(tmp_path, worker_idle=60).start()
    try:
        other = Ed25519Key.generate()
        blob = rig.authority.certificate(other.public_blob, roles=["nobody knows it"], critical_options=refused)
        first = tmp_path / "first"
        first.touch(0o600)
        first.write_bytes(other.to_openssh())
        (tmp_path / "first-cert.pub").write_text(certificate_line(blob) + "\n")
        rig.give_certificate(critical_options={} if refused else {"force-command": "echo forced"})
        done = rig.ssh("echo free", options=("-v", "-i", str(first)))
        assert done.stdout == (b"free\n" if refused else b"forced\n"), done.stderr
        # Both were asked about, in this order.
        assert done.stderr.index(b"Offering public key: " + bytes(first)) < done.stderr.index(b"Server accepts key")
        assert "Failed publickey" in rig.log()
    finally:
        rig.stop()


def test_the_end_reaches_the_client_though_the_keeper_has_the_socket_too(rig: Rig) -> None:
    """close() by the worker sends no FIN while the keeper has its duplicate; shutdown() does."""
    process = rig.popen("echo ready; cat")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (worker,) = rig.workers()
    os.kill(worker, signal.SIGKILL)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 255


def test_the_kernel_tells_the_keeper_who_has_left(rig: Rig) -> None:
    """A worker that says nothing of it cannot act for somebody who is gone."""
    left = rig.popen("echo $$; cat")
    assert left.stdout is not None
    shell = int(left.stdout.readline())
    left.kill()
    left.communicate()
    wait_for("the session to end", lambda: not Path(f"/proc/{shell}").exists())


def test_commands_are_not_text(rig: Rig) -> None:
    done = subprocess.run(
        [*(os.fsencode(word) for word in rig.command()), b"printf %s '\xff\xfe' | od -An -tx1"],
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.stdout.split() == [b"ff", b"fe"]
