"""What ssh-audit says of both our servers: nothing that fails, and no warning but that old clients are let in, too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.scenarios.cluster import LIMIT

from .conftest import Peer

#: exchanges that clients of some years ago need; the others are hybrid, and stand first in newer clients' lists
CLASSICAL = {"curve25519-sha256", "curve25519-sha256@libssh.org", "diffie-hellman-group16-sha512"}
QUANTUM = "does not provide protection against post-quantum attacks"


def remarks(report: Mapping[str, Any], level: str) -> Iterator[tuple[str, str]]:
    """(algorithm, remark) of that level in all of its lists."""
    for kind in ("kex", "key", "enc", "mac"):
        for entry in report[kind]:
            for text in entry.get("notes", {}).get(level, ()):
                yield entry["algorithm"], text


@pytest.mark.parametrize("server", ["node", "proxy"])
def test_nothing_weak_is_on_offer(peer: Peer, server: str) -> None:
    host, _, port = str(peer.cluster.ready[server]).rpartition(":")
    command = [sys.executable, "-m", "ssh_audit.ssh_audit", "-jj", "--skip-rate-test", "-p", port, host]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT, check=False)
    report = json.loads(done.stdout)
    assert len(report["enc"]) > 3
    assert list(remarks(report, "fail")) == []
    warned = list(remarks(report, "warn"))
    assert {text for _, text in warned} <= {QUANTUM}
    assert {name for name, _ in warned} <= CLASSICAL
    assert report.get("cves", []) == []
    strict = {entry["algorithm"] for entry in report["kex"]}
    assert "kex-strict-s-v00@openssh.com" in strict
