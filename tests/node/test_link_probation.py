"""A certificate on probation: what link tries when no proxy takes the one of today, and what it never does then."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.link_harness import Rig
from tests.node.tiny_cluster import Cluster, TunnelEnd
from tinyport.host.identity_before import GIVEN_UP
from tinyport.node.link.probation import PATIENCE, Probation

Start = Callable[..., Rig]
QUICK = {"link.tunnel.FIRST_WAIT": [0.01, 0.02], "link.tunnel.LONGEST_WAIT": 0.05}


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    """The cluster as the identity of today knows it."""
    return Cluster()


@pytest.fixture(scope="module")
def old(cluster: Cluster) -> Cluster:
    """The same cluster, as a proxy that has not followed shows it: another TLS CA."""
    made = Cluster()
    made.proxy_uuid = cluster.proxy_uuid
    return made


@pytest.fixture
def start(cluster: Cluster, old: Cluster, tmp_path: Path) -> Iterator[Start]:
    rigs: list[Rig] = []

    def make(**changes: Any) -> Rig:
        before = {**old.identity(("127.0.0.1", 1)), **changes.pop("kept", {})}
        constants = {**QUICK, **changes.pop("constants", {})}
        rigs.append(Rig(cluster, tmp_path, before=before, constants=constants, **changes))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.stop()


ALPN = "tinyport-tunnel"


def meets(rig: Rig, of: Cluster) -> ssl.SSLSocket | None:
    """The next connection, taken by a proxy of this TLS CA; None when one of the two does not want the other."""
    stream = rig.accept()
    try:
        secure = of.server("proxy", ALPN).wrap_socket(stream, server_side=True)
    except (ssl.SSLError, ConnectionError):
        return None
    if secure.selected_alpn_protocol() == ALPN:
        return secure
    # What is said to auth comes here, too.
    secure.close()
    return meets(rig, of)


def comes_back(rig: Rig, of: Cluster) -> tuple[TunnelEnd, int]:
    """A tunnel with ``of``, and how many attempts came to nothing before."""
    for attempt in range(20):
        secure = meets(rig, of)
        if secure is not None:
            return rig.hold(TunnelEnd.over(secure)), attempt
    raise AssertionError("it does not try that one")


def test_what_was_before_is_tried_once_today_is_refused_for_good(start: Start, old: Cluster) -> None:
    rig = start()
    tunnel, attempts = comes_back(rig, old)
    assert attempts == PATIENCE
    tunnel.greet(old)
    report = rig.state("up")
    assert [one.get("before") for one in report["tunnels"]] == [True]
    assert report["generation"] == rig.identity["generation"]
    # Auth is spoken to with today's alone: whoever has a key that was replaced hears no event and tells no time.
    with pytest.raises(ssl.SSLError):
        rig.auth(of=old)


def test_todays_comes_first_again_and_ends_the_way_back(start: Start, cluster: Cluster, old: Cluster) -> None:
    rig = start()
    tunnel, _ = comes_back(rig, old)
    tunnel.greet(old)
    rig.state("up")
    tunnel.close()
    # (The connection to auth may be under way as well: it is one of today's, too.)
    assert meets(rig, old) is None
    tunnel, _ = comes_back(rig, cluster)
    tunnel.greet(cluster)
    report = rig.state("up")
    while "before" in report["tunnels"][0]:
        report = rig.state("up")
    tunnel.close()
    for _ in range(PATIENCE + 3):
        assert meets(rig, old) is None


@pytest.mark.parametrize(
    "changes",
    [{"kept": {"valid_before": time.time() - 10}}, {"versions": {"policy": [GIVEN_UP, GIVEN_UP], "node": [1, 1]}}],
    ids=["ended", "compromise"],
)
def test_a_way_back_that_is_none(start: Start, old: Cluster, changes: dict[str, Any]) -> None:
    """It ended with its certificate; and after a compromise nothing of before counts."""
    rig = start(**changes)
    for _ in range(PATIENCE + 3):
        assert meets(rig, old) is None


def test_half_of_one_is_none(start: Start, cluster: Cluster) -> None:
    rig = start(kept={"tls_key": "nonsense"})
    tunnel, _, _ = rig.up()
    tunnel.close()
    rig = start(kept={"tls_cas": ["nonsense"]})
    rig.up()


def test_one_that_nobody_refuses_is_not_doubted(start: Start, cluster: Cluster) -> None:
    """A network that breaks says nothing of certificates, however often it does."""
    rig = start()
    for _ in range(PATIENCE + 2):
        rig.accept().close()
    tunnel, _ = comes_back(rig, cluster)
    tunnel.greet(cluster)
    assert "before" not in rig.state("up")["tunnels"][0]


def test_one_that_stands_with_the_old_tries_todays_now_and_then(start: Start, cluster: Cluster, old: Cluster) -> None:
    rig = start(constants={"link.tunnels.AGAIN": 0.2})
    tunnel, _ = comes_back(rig, old)
    tunnel.greet(old)
    tunnel, _ = comes_back(rig, cluster)
    tunnel.greet(cluster)


def test_in_turns() -> None:
    def today(protocol: str) -> Any: ...

    def before(protocol: str) -> Any: ...

    probation = Probation(today, before)
    tried = [probation.choose(refused)[1] for refused in range(PATIENCE + 5)]
    assert tried == [False] * PATIENCE + [True, False, True, False, True]
    assert Probation(today).choose(PATIENCE) == (today, False)
    assert Probation(today, before, lambda: False).choose(PATIENCE) == (today, False)
    probation.passed()
    assert probation.choose(PATIENCE) == (today, False)
