"""Bytes of commands: none lost at the end, none changed, each direction ends by itself."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.interop.conftest import Peer
from tests.ports import free_port
from tests.scenarios.cluster import LIMIT, text

#: 100 MB that no compression and no repetition hides
LARGE = 100_000_000
PRINT = f"openssl enc -aes-128-ctr -K {'00' * 16} -iv {'00' * 16} -in /dev/zero 2>/dev/null | head -c {LARGE}"


@pytest.fixture(params=["through the proxy", "straight"])
def ssh(request: pytest.FixtureRequest, peer: Peer) -> list[str]:
    need_program("ssh")
    options = peer.direct if request.param == "straight" else peer.via_proxy
    return ["ssh", *options, peer.destination]


def test_half_close(peer: Peer, ssh: list[str]) -> None:
    """``ssh host sort < file``: the command's input ends, its output comes afterwards."""
    words = [f"{number:06}\n".encode() for number in range(50_000)]
    done = peer.cluster.run(*ssh, "sort", home=peer.user, input=b"".join(reversed(words)))
    assert done.returncode == 0, text(done)
    assert done.stdout == b"".join(words)


def test_every_byte_passes_both_ways(peer: Peer, ssh: list[str]) -> None:
    data = bytes(range(256)) * 4096 + b"\r\n~.\n\x00\xff"
    done = peer.cluster.run(*ssh, "cat; cat /dev/null >&2", home=peer.user, input=data)
    assert (done.returncode, done.stderr) == (0, b""), text(done)
    assert done.stdout == data


def test_a_large_output_and_an_end_at_once(peer: Peer, ssh: list[str]) -> None:
    need_program("openssl")
    expected = subprocess.run(["sh", "-c", PRINT], capture_output=True, check=True, timeout=LIMIT)
    done = peer.cluster.run(*ssh, f"{PRINT}; exit 6", home=peer.user)
    assert (done.returncode, len(done.stdout)) == (6, LARGE)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(expected.stdout).digest()


def test_a_command_that_reads_nothing(peer: Peer, ssh: list[str]) -> None:
    """``ssh host true </dev/zero``: input that nobody wants ends nothing but itself."""
    with Path("/dev/zero").open("rb") as zero:
        done = subprocess.run(
            [*ssh, "exec <&-; echo done; exit 4"],
            stdin=zero,
            capture_output=True,
            timeout=LIMIT,
            env=peer.cluster.env(peer.user),
            check=False,
        )
    assert (done.returncode, done.stdout) == (4, b"done\n"), done.stderr


def test_a_reader_that_is_slow_loses_nothing(peer: Peer, ssh: list[str]) -> None:
    """Back-pressure reaches the command; the end of the session waits for the reader."""
    command = [*ssh, "head -c 20000000 /dev/zero; echo end"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=peer.cluster.env(peer.user)
    ) as p:
        assert p.stdout is not None
        first = os.read(p.stdout.fileno(), 1)
        count = len(first) + len(p.stdout.read(1_000_000))
        # Others are served meanwhile.
        assert peer.cluster.run(*ssh, "echo other", home=peer.user).stdout == b"other\n"
        rest = p.stdout.read()
        assert (count + len(rest), rest[-4:]) == (20_000_004, b"end\n")
    assert p.returncode == 0


def test_statuses(peer: Peer, ssh: list[str]) -> None:
    """255 is a status like others, and what ssh says for a signal (RFC 4254 section 6.10) or a failure of its own."""
    for command, status in (("exit 255", 255), ("kill -KILL $$", 255), ("exit 0", 0), ("/does/not/exist", 127)):
        assert peer.cluster.run(*ssh, command, home=peer.user).returncode == status, command


def test_an_editor_starts_its_server(peer: Peer, ssh: list[str]) -> None:
    """As VS Code does it: a shell without a terminal that is told on its input what to do, beside a SOCKS forward."""
    words = [*ssh[:1], "-T", "-D", f"127.0.0.1:{free_port()}", *ssh[1:], "bash"]
    script = b'echo "id: $(id -un)"; uname -s; type setsid >/dev/null && echo found; exit 5\n'
    done = peer.cluster.run(*words, home=peer.user, input=script)
    assert done.returncode == 5, text(done)
    assert done.stdout == f"id: {peer.cluster.login_name}\nLinux\nfound\n".encode(), text(done)
