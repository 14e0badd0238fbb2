"""May the bearer of a certificate be a login here? By what this node holds, and nothing that a worker says."""

from __future__ import annotations

from tinyport.core import break_glass
from tinyport.core.access import Grant, decide, judge_certificate
from tinyport.core.certificate import Certificate
from tinyport.core.errors import AccessDenied
from tinyport.core.names import printable
from tinyport.node.keeper.documents import Documents


def judge(documents: Documents, cert: Certificate, login: str, source: str, *, again: bool = False) -> Grant:
    """The grant, or AccessDenied. ``source``: the client's IP address. ``again``: they are here already.

    Whoever gets in by a break-glass certificate has used it: ``documents.used_once`` is to be told.
    """
    policy, node = documents.policy, documents.node
    if policy is None or node is None:
        message = "this node has not heard from its cluster yet"
        raise AccessDenied(message, detail="no policy or no node document", code="unavailable")
    if again:
        policy = policy.for_who_is_here()
    now, verified = documents.now(), documents.verified
    if break_glass.is_break_glass(cert):
        past = documents.known_past()
        return break_glass.judge(cert, login=login, policy=policy, node=node, past=past, now=now, verified=verified)
    # What has ended by the last moment that is past has ended for certain, and is told so.
    if not documents.knows_time and cert.valid_before > now:
        now = _began(documents, cert, now, again=again)
    subject = judge_certificate(cert, policy=policy, now=now, source=source, verified=verified)
    return decide(subject, login=login, node=node, policy=policy, now=now)


def _began(documents: Documents, cert: Certificate, now: float, *, again: bool) -> float:
    """The time to judge by on a board that has no clock and has not heard from auth since it started: a certificate
    that began after the last moment which is past for certain says itself that it is later. One from before may have
    ended since. AccessDenied for those.
    """
    if cert.valid_after < documents.known_past() and not again:
        raise AccessDenied(
            "this node does not know what time it is, and has not reached its cluster since it started",
            detail=f"the certificate of {printable(cert.key_id, 80)} began before what is past for certain",
            code="clock",
            hint='a certificate from now on is good: "tsh login"',
        )
    return max(now, float(cert.valid_after))
