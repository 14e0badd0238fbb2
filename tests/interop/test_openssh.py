"""OpenSSH's programs against our node, through the proxy and straight."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.interop.conftest import Peer
from tests.scenarios.cluster import text


@pytest.fixture(params=["through the proxy", "straight"])
def options(request: pytest.FixtureRequest, peer: Peer) -> list[str]:
    need_program("ssh")
    return peer.direct if request.param == "straight" else peer.via_proxy


def ssh(peer: Peer, *words: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return peer.cluster.run("ssh", *words, home=peer.user, input=input)


def test_commands_streams_and_status(peer: Peer, options: list[str]) -> None:
    data = os.urandom(4_000_000)
    done = ssh(peer, *options, peer.destination, "cat; echo problem >&2; exit 9", input=data)
    assert (done.returncode, done.stderr) == (9, b"problem\n"), text(done)
    assert done.stdout == data


def test_a_command_that_ends_by_a_signal(peer: Peer, options: list[str]) -> None:
    # RFC 4254 6.10: exit-signal; OpenSSH's client then ends with 255.
    done = ssh(peer, *options, peer.destination, "kill -TERM $$")
    assert done.returncode == 255, text(done)


def test_the_server_names_the_signatures_it_takes(peer: Peer, options: list[str]) -> None:
    # RFC 8308 section 3.1. Without it OpenSSH would not sign with RSA keys and SHA-2.
    done = ssh(peer, *options, "-v", peer.destination, "true")
    found = re.search(rb"server-sig-algs=<([^>]*)>", done.stderr)
    assert found, text(done)
    named = found[1].decode().split(",")
    assert {"ssh-ed25519", "sk-ssh-ed25519@openssh.com", "rsa-sha2-256", "rsa-sha2-512"} <= set(named)
    assert not {"ssh-rsa", "ssh-dss"} & set(named)


def test_a_terminal(peer: Peer, options: list[str]) -> None:
    done = ssh(peer, *options, "-tt", peer.destination, "tty && stty -echo && exit 4")
    assert done.returncode == 4, text(done)
    assert b"/dev/pts/" in done.stdout


def test_a_background_job_does_not_hang_the_connection(peer: Peer, options: list[str]) -> None:
    done = ssh(peer, *options, peer.destination, "sleep 600 >/dev/null 2>&1 </dev/null & echo started")
    assert (done.returncode, done.stdout) == (0, b"started\n"), text(done)


def test_only_harmless_variables_pass(peer: Peer, options: list[str]) -> None:
    words = [*options, "-o", "SetEnv=LC_TINYPORT=yes LD_PRELOAD=/evil BASH_ENV=/evil", peer.destination]
    done = ssh(peer, *words, "echo $LC_TINYPORT:$LD_PRELOAD:$BASH_ENV")
    assert done.stdout == b"yes::\n", text(done)


def test_sftp_moves_a_folder(peer: Peer, options: list[str], tmp_path: Path) -> None:
    need_program("sftp")
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    for name in ("a", "inner/b"):
        (tree / name).write_bytes(os.urandom(70_000))
    target = tmp_path / "target"
    target.mkdir()
    batch = f"cd {target}\nput -r {tree}\nrename tree moved\nget -r moved {tmp_path}/back\nls -l moved\n"
    words = [word if word != "-p" else "-P" for word in options]
    done = peer.cluster.run("sftp", *words, "-b", "-", peer.destination, home=peer.user, input=batch)
    assert done.returncode == 0, text(done)
    for name in ("a", "inner/b"):
        assert (tmp_path / "back" / name).read_bytes() == (tree / name).read_bytes()


def test_a_key_without_a_certificate_is_refused_in_words(peer: Peer, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    words = [
        "-F",
        "none",
        "-i",
        str(key),
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "IdentityAgent=none",
        "-o",
        "BatchMode=yes",
    ]
    known = [word for word in peer.config.read_text().split() if word.endswith("known_hosts")]
    alias = ["-o", f"HostKeyAlias={peer.name}", "-o", f"UserKnownHostsFile={known[0].strip(chr(34))}", "-p", peer.port]
    done = ssh(peer, *words, *alias, f"{peer.cluster.login_name}@{peer.host}", "true")
    assert done.returncode == 255
    assert b"Permission denied (publickey)" in done.stderr, text(done)


def test_rsync(peer: Peer, tmp_path: Path) -> None:
    need_program("rsync")
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_bytes(os.urandom(200_000))
    command = " ".join(["ssh", *peer.via_proxy])
    for _ in range(2):
        words = ("rsync", "-a", "-e", command, f"{source}/", f"{peer.destination}:{tmp_path}/copy/")
        done = peer.cluster.run(*words, home=peer.user)
        assert done.returncode == 0, text(done)
    assert (tmp_path / "copy/f").read_bytes() == (source / "f").read_bytes()
