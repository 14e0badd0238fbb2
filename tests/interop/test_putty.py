"""PuTTY's plink and psftp, with certificates both ways: theirs for the user, ours of the host by a saved host CA."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.conftest import need_program
from tests.interop.conftest import Peer
from tests.scenarios.cluster import text

Run = Callable[..., "CompletedProcess[bytes]"]


@pytest.fixture
def putty(peer: Peer, tmp_path: Path) -> Run:
    """Runs one of its programs with the user's key and certificate (PuTTY 0.78 and later), and the cluster's host CA as
    its dialogue would have saved it.
    """
    need_program("puttygen")
    key = tmp_path / "key.ppk"
    words = ["puttygen", str(peer.key), "--certificate", str(peer.certificate), "-O", "private", "-o", str(key)]
    made = peer.cluster.run(*words)
    assert made.returncode == 0, text(made)
    (line,) = (peer.cluster.folder / peer.user / "known_hosts").read_text().splitlines()[:1]
    marker, hosts, _, authority = line.split()[:4]
    assert marker == "@cert-authority"
    saved = tmp_path / ".putty/sshhostcas/tinyport"
    saved.parent.mkdir(parents=True)
    saved.write_text(f"PublicKey={authority}\nValidity={hosts}\nPermitRSASHA1=0\n")

    def run(program: str, *more: str, name: str = peer.name, input: bytes = b"") -> CompletedProcess[bytes]:
        need_program(program)
        where = ["-batch", "-loghost", name, "-P", peer.port, "-i", str(key)]
        at = f"{peer.cluster.login_name}@{peer.host}"
        before = [word for word in more if word.startswith("-") or Path(word).exists()]
        after = [word for word in more if word not in before]
        return peer.cluster.run(program, *where, *before, at, *after, input=input, env={"HOME": str(tmp_path)})

    return run


def test_plink(putty: Run) -> None:
    data = os.urandom(1_000_000)
    done = putty("plink", "cat; echo problem >&2; exit 7", input=data)
    assert done.returncode == 7, text(done)
    assert done.stdout == data
    assert done.stderr.endswith(b"problem\n")


def test_plink_does_not_take_us_for_another_host(putty: Run, peer: Peer) -> None:
    done = putty("plink", "true", name=f"other.{peer.name.partition('.')[2]}")
    assert done.returncode == 1, text(done)
    assert b"host key" in done.stderr


def test_psftp(putty: Run, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(os.urandom(500_000))
    (tmp_path / "there").mkdir()
    batch = tmp_path / "batch"
    batch.write_text(
        f"cd {tmp_path}/there\nlcd {tmp_path}\nput up\nmv up moved\nchmod 600 moved\nls\nget moved down\nrm moved\n"
    )
    done = putty("psftp", "-b", str(batch))
    assert done.returncode == 0, text(done)
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()
    assert list((tmp_path / "there").iterdir()) == []
