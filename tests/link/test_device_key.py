"""Device keys: in files of two formats, and behind an ssh-agent."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.conftest import need_program
from tests.node.tiny_cluster import LIMIT
from tinyport.core.certificate import public_line
from tinyport.core.errors import OperatorError, TinyportError, Unavailable
from tinyport.core.signatures import Ed25519Key, verify
from tinyport.link.device_key import from_agent, from_file, open_device_key


def test_a_file_of_either_format(tmp_path: Path) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    key = Ed25519Key(private)
    (tmp_path / "openssh").write_bytes(key.to_openssh())
    (tmp_path / "pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for name in ("openssh", "pem"):
        found = open_device_key({"path": str(tmp_path / name)})
        assert found.public_blob == key.public_blob
        verify(key.public_blob, b"x", found.sign(b"x"))


def test_what_is_no_device_key_is_said(tmp_path: Path) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    other = ec.generate_private_key(ec.SECP256R1())
    locked = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    for data in (
        b"",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        locked,
        public_line(Ed25519Key.generate().public_blob).encode(),
    ):
        (tmp_path / "key").write_bytes(data)
        with pytest.raises(OperatorError, match="cannot be used") as refused:
            from_file(str(tmp_path / "key"))
        assert "ssh-keygen" in refused.value.hint
    with pytest.raises(OperatorError, match="cannot be read: no such file"):
        from_file(str(tmp_path / "none"))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    for program in ("ssh-agent", "ssh-add", "ssh-keygen"):
        need_program(program)
    place = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(place)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        # It says where it is once it is there.
        process.stdout.readline()
        yield place
        process.terminate()


def add(agent: Path, folder: Path, kind: str) -> str:
    path = folder / kind
    make = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(make, check=True, timeout=LIMIT)
    environment = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
    subprocess.run(["ssh-add", "-q", str(path)], check=True, timeout=LIMIT, env=environment)
    path.unlink()
    return path.with_suffix(".pub").read_text().strip()


def test_an_agents_key_of_any_kind(agent: Path, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="has no keys"):
        from_agent(str(agent))
    lines = [add(agent, tmp_path, "ecdsa")]
    key = open_device_key({"agent": str(agent)})
    verify(key.public_blob, b"x", key.sign(b"x"))
    lines += [add(agent, tmp_path, kind) for kind in ("rsa", "ed25519")]
    with pytest.raises(OperatorError, match="has 3 keys") as refused:
        from_agent(str(agent))
    assert "key =" in refused.value.hint
    for line in lines:
        chosen = open_device_key({"agent": str(agent), "key": line})
        verify(chosen.public_blob, b"x", chosen.sign(b"x"))
    with pytest.raises(OperatorError, match="does not have that key"):
        from_agent(str(agent), public_line(Ed25519Key.generate().public_blob))
    with pytest.raises(OperatorError, match=r"node\.device_key"):
        from_agent(str(agent), "nonsense")


@pytest.mark.parametrize(
    "answer",
    [b"", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1\5", b"\0\0\0\5\x0c\0\0\0\1", b"\0\0\0\5\x0c\xff\xff\xff\xff"],
)
def test_an_agent_that_is_none(tmp_path: Path, answer: bytes) -> None:
    place = tmp_path / "agent"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()

        def serve() -> None:
            stream, _ = listener.accept()
            with stream:
                stream.recv(4096)
                stream.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(TinyportError):
            from_agent(str(place))
        thread.join(LIMIT)
    with pytest.raises(Unavailable, match="does not answer"):
        from_agent(str(tmp_path / "none"))
