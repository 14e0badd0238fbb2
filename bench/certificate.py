"""The check of a user certificate and the decision about a node, on one core, beside raw Ed25519 verification.

Cold: a certificate that was never seen; decoded, its CA's signature verified, every rule judged. Warm: the same again,
which was decoded and verified before, judged by every rule again; and many people's in turn, which are more than the
processor's cache holds. Raw: what the same library needs for the one Ed25519 verification in it, and ``openssl speed``
for the same.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.report import AT_LEAST, Row, Suite
from bench.rounds import interleaved, ratio
from tests.node.tiny_cluster import NAME, Cluster
from tinyport.core.access import Subject, decide, judge_certificate
from tinyport.core.certificate import Certificate
from tinyport.core.errors import AccessDenied
from tinyport.core.issue import issue_user_certificate
from tinyport.core.policy import NodeDocument, Policy, open_document
from tinyport.core.signatures import Ed25519Key, verify
from tinyport.core.verified import VerifiedCertificates

NOW = 1_000_000
ROLE_COUNTS = (1, 5, 20, 50)
RULES = 200
# As many certificates in turn, so that a cold one is never the last one again.
DIFFERENT = 512
UUID = "0d9b0c2e-7c55-4c1a-9a3e-6c1f5a1b2c3d"


class Bench:
    """A cluster with fifty roles of four rules' worth of conditions each, and people with some of them."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.key = Ed25519Key.generate()
        self.policy = self._policy()
        self.node = self._node()

    def _policy(self) -> Policy:
        roles = {f"role{number}": _role(number) for number in range(max(ROLE_COUNTS))}
        signed = self.cluster.policy(serial=2, roles=roles)
        return Policy.parse(open_document(signed, self.cluster.policy_key.public_blob, "policy", NAME))

    def _node(self) -> NodeDocument:
        labels = {"site": "site49", "room": "cellar", "model": "pi4"}
        body = {"epoch": 1, "serial": 1, "uuid": UUID, "name": "shed", "labels": labels, "state": "active"}
        return NodeDocument.parse(body)

    def certificate(self, roles: int, *, ca: Ed25519Key | None = None, ttl: int = 3600) -> bytes:
        """Somebody with the last ``roles`` of the roles: the one that lets them in is the last that is looked at."""
        most = max(ROLE_COUNTS)
        return issue_user_certificate(
            ca or self.cluster.user_ca,
            public_key=self.key.public_blob,
            serial=7,
            nonce=os.urandom(32),
            cluster=NAME,
            user="alice",
            logins=["pi", "admin"],
            roles=[f"role{number}" for number in range(most - roles, most)],
            traits={"team": ["blue", "green"]},
            permits=["pty", "port_forwarding"],
            now=NOW,
            ttl=ttl,
        )

    def judge(self, blob: bytes, verified: VerifiedCertificates | None, now: int = NOW + 60) -> Subject:
        cert = Certificate.decode(blob) if verified is None else verified.decode(blob)
        return judge_certificate(cert, policy=self.policy, now=now, source="192.0.2.7", verified=verified)


def _role(number: int) -> dict[str, object]:
    """Four rules: two conditions on labels, a login that is denied, and one of the API's."""
    return {
        "name": f"role{number}",
        "allow": {
            "logins": ["{{internal.logins}}", "pi"],
            "node_labels": {"site": f"site{number}", "model": ["pi3", "pi*"]},
            "rules": [{"resources": ["nodes"], "verbs": ["read"]}],
        },
        "deny": {"logins": ["root"], "node_labels": {"site": f"secret{number}"}},
    }


def rate(calls: int, call: Callable[[int], object]) -> float:
    """Calls a second of this thread's CPU time: what one core gives, whoever else is on the machine."""
    begin = time.thread_time()
    for turn in range(calls):
        call(turn)
    return calls / (time.thread_time() - begin)


def measure(quick: bool) -> Suite:
    suite = Suite("certificate")
    rounds, calls = (5, 1500) if quick else (7, 4000)
    bench = Bench()
    many = [bench.certificate(5) for _ in range(DIFFERENT)]
    decoded = [Certificate.decode(blob) for blob in many]
    raw = _raw(decoded)
    warm = VerifiedCertificates(DIFFERENT)
    for blob in many:
        bench.judge(blob, warm)
    expired, foreign = bench.certificate(5, ttl=60), bench.certificate(5, ca=Ed25519Key.generate())
    runs: dict[str, Callable[[int], object]] = {
        "raw Ed25519 verification": raw,
        "cold": lambda turn: bench.judge(many[turn % DIFFERENT], None),
        "warm": lambda turn: bench.judge(many[0], warm),
        f"warm, {DIFFERENT} in turn": lambda turn: bench.judge(many[turn % DIFFERENT], warm),
        "expired": lambda turn: _refused(partial(bench.judge, expired, warm, NOW + 7200)),
        "foreign": lambda turn: _refused(partial(bench.judge, foreign, warm)),
    }
    for count in ROLE_COUNTS:
        blob = bench.certificate(count)
        bench.judge(blob, warm)
        runs[f"warm, {count} roles"] = lambda turn, blob=blob: bench.judge(blob, warm)  # type: ignore[misc]
    found = interleaved(rounds, {name: partial(rate, calls, call) for name, call in runs.items()})
    suite.details["a second, one core"] = found
    raws = found["raw Ed25519 verification"]
    targets = {"cold": 0.9, "warm": 20.0}
    for name in list(runs)[1:]:
        middle, spread = ratio(found[name], raws)
        row: dict[str, Any] = {"ratio": middle, "spread": spread, "compared": "ratio", "bound": AT_LEAST}
        ours, peer = statistics.median(found[name]), statistics.median(raws)
        what = f"certificate check, {name}"
        suite.rows.append(Row(what, "/s a core", ours, "raw verify", peer, target=targets.get(name), **row))
    if (speed := openssl_speed()) is not None:
        suite.details["openssl speed, Ed25519 verifications a second"] = speed
        cold = statistics.median(found["cold"])
        suite.rows.append(Row("certificate check, cold", "/s a core", cold, "openssl speed", speed, cold / speed))
    _decisions(suite, bench, rounds, calls)
    return suite


def _raw(certs: Sequence[Certificate]) -> Callable[[int], object]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    first = certs[0]
    verify(first.ca_key, first.signed, first.signature)
    # The values inside their SSH strings: 4 + 11 + 4 bytes before each.
    key = Ed25519PublicKey.from_public_bytes(first.ca_key[19:])
    pairs = [(cert.signature[19:], cert.signed) for cert in certs]

    def one(turn: int) -> object:
        return key.verify(*pairs[turn % DIFFERENT])

    return one


def _refused(call: Callable[[], object]) -> None:
    try:
        call()
    except AccessDenied:
        return
    raise SystemExit("bench: error: a certificate that must be refused was not")


def _decisions(suite: Suite, bench: Bench, rounds: int, calls: int) -> None:
    """May this person be that login on that node? Fifty roles of the person, two hundred rules in them."""
    subject = bench.judge(bench.certificate(max(ROLE_COUNTS)), None)
    assert len(subject.roles) * 4 == RULES
    few = bench.judge(bench.certificate(3), None)

    def ask(who: Subject, login: str, turn: int) -> object:
        del turn
        return decide(who, login=login, node=bench.node, policy=bench.policy, now=NOW + 60)

    runs: dict[str, Callable[[int], object]] = {
        f"allowed, {max(ROLE_COUNTS)} roles, {RULES} rules": partial(ask, subject, "pi"),
        "allowed, 3 roles": partial(ask, few, "pi"),
        "refused, 50 roles": lambda turn: _refused(partial(ask, subject, "nobody", turn)),
    }
    found = interleaved(rounds, {name: partial(rate, calls, call) for name, call in runs.items()})
    suite.details["decisions a second, one core"] = found
    for name, rates in found.items():
        target = 100_000 if f"{RULES} rules" in name else None
        what = f"access decision, {name}"
        suite.rows.append(Row(what, "/s a core", statistics.median(rates), target=target, bound=AT_LEAST))


def openssl_speed() -> float | None:
    """Ed25519 verifications a second by ``openssl speed``; None when there is no such program."""
    try:
        done = subprocess.run(
            ["openssl", "speed", "-seconds", "1", "ed25519"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    found = re.search(r"EdDSA \(Ed25519\)\s+\S+s\s+\S+s\s+\S+\s+([\d.]+)", done.stdout)
    return float(found.group(1)) if found else None
