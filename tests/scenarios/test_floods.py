"""A thousand connections that go nowhere, at the node's own port and at the proxy's: a person still gets in.

Nothing here measures time; that no place comes free by itself (login grace is a minute) makes the point.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.scenarios.cluster import SLOWNESS, Cluster, text

COUNT = 1000
#: far below the login grace time, which is when places of the silent would come free by themselves
PATIENCE = 20 * SLOWNESS

#: what each of them says. A KEXINIT (RFC 4253 section 7.1) that is announced and never comes is half a handshake.
WORDS = {
    "silent": b"",
    "a version": b"SSH-2.0-x\r\n",
    "half a handshake": b"SSH-2.0-x\r\n" + (1500).to_bytes(4, "big") + b"\x06\x14" + os.urandom(16),
    "byte by byte": b"SS",
    "half a ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01",
}
SOURCES = {"one source": 1, "many sources": COUNT}


@pytest.fixture(scope="module")
def person(cluster: Cluster) -> tuple[str, Path]:
    need_program("ssh")
    user = cluster.add_user("flora", cluster.login_name)
    return user, cluster.ssh_config(user)


@pytest.fixture(scope="module", autouse=True)
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def flood(address: str, words: bytes, sources: int) -> Iterator[list[socket.socket]]:
    """COUNT connections to ``address`` that say ``words``; the person of these tests comes from 127.0.0.1, too."""
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        streams = []
        for number in range(COUNT):
            stream = stack.enter_context(socket.socket())
            place = number % sources
            if sources > 1:
                stream.bind((f"127.{1 + place // 250}.1.{1 + place % 250}", 0))
            stream.settimeout(PATIENCE)
            stream.connect((host, int(port)))
            if words:
                stream.sendall(words)
            streams.append(stream)
        yield streams


def get_in(cluster: Cluster, person: tuple[str, Path], way: str) -> None:
    user, config = person
    name = f"{cluster.node}.{cluster.tctl_json('status')['cluster']}"
    words = ["ssh", "-F", str(config), "-o", "BatchMode=yes", "-o", f"ConnectTimeout={int(PATIENCE)}"]
    if way == "node":
        host, _, port = cluster.ready["node"].rpartition(":")
        words += ["-o", "ProxyCommand=none", "-o", f"HostKeyAlias={name}", "-o", f"HostName={host}", "-p", port]
    done = cluster.run(*words, f"{cluster.login_name}@{name}", "echo in", home=user, limit=PATIENCE)
    assert (done.returncode, done.stdout) == (0, b"in\n"), f"{text(done)}\n{cluster.log()}"


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("words", ["silent", "a version"])
@pytest.mark.parametrize("way", ["node", "proxy"])
def test_a_person_gets_in_beside_a_flood(
    cluster: Cluster, person: tuple[str, Path], way: str, words: str, sources: str
) -> None:
    with flood(cluster.ready[way], WORDS[words], SOURCES[sources]):
        get_in(cluster, person, way)
        # And again, when the flood has settled in every place that it can get.
        get_in(cluster, person, way)


@pytest.mark.slow
@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("words", ["half a handshake", "byte by byte", "half a ClientHello"])
@pytest.mark.parametrize("way", ["node", "proxy"])
def test_a_person_gets_in_beside_half_handshakes(
    cluster: Cluster, person: tuple[str, Path], way: str, words: str, sources: str
) -> None:
    with flood(cluster.ready[way], WORDS[words], SOURCES[sources]) as streams:
        get_in(cluster, person, way)
        for stream in streams:
            # One more byte, from those that are still there.
            try:
                stream.send(b"H", socket.MSG_NOSIGNAL)
            except OSError:
                continue
        get_in(cluster, person, way)
