"""A user who does not wait for answers: what asyncssh forgets, the keeper does not. Nobody else may suffer from it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.connection import SSHConnection

from tests.node.session_harness import LIMIT, LOGIN, Rig

_USERAUTH_REQUEST = 50


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path).start()
    yield rig
    rig.stop()


def _twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients send each signed request for authentication twice, at once."""
    once = SSHConnection.send_packet

    def send_packet(self: Any, pkttype: int, *args: bytes, **more: Any) -> None:
        once(self, pkttype, *args, **more)
        method, _, rest = b"".join(args).partition(b"publickey")
        if pkttype == _USERAUTH_REQUEST and method and rest[:1] == b"\x01":
            once(self, pkttype, *args, **more)

    monkeypatch.setattr(SSHConnection, "send_packet", send_packet)


def test_a_proof_sent_twice_ends_nobody_elses_session(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    key = asyncssh.import_private_key(rig.key.read_bytes())
    certificate = asyncssh.import_certificate((rig.folder / "id-cert.pub").read_bytes())

    async def attack() -> None:
        options: dict[str, Any] = {
            "username": LOGIN,
            "client_keys": [(key, certificate)],
            "known_hosts": None,
            "config": None,
            "agent_path": None,
        }
        async with asyncssh.connect("127.0.0.1", rig.port, **options) as other:
            process = await other.create_process("cat")
            with monkeypatch.context() as patched:
                _twice(patched)
                # Let in by the first proof, or ended by the second: both are right.
                with contextlib.suppress(asyncssh.Error, OSError):
                    (await asyncssh.connect("127.0.0.1", rig.port, **options)).abort()
            process.stdin.write("still here")
            process.stdin.write_eof()
            done = await process.wait()
            assert (done.stdout, done.exit_status) == ("still here", 0)

    asyncio.run(asyncio.wait_for(attack(), LIMIT))
    assert "a worker is ended" not in rig.log()
