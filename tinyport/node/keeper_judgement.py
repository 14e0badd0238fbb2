"""May the bearer of a certificate be a login here? By what this node holds, and nothing that a worker says."""

from __future__ import annotations

from tinyport.core import break_glass
from tinyport.core.access import Grant, decide, judge_certificate
from tinyport.core.certificate import Certificate
from tinyport.core.errors import AccessDenied
from tinyport.node.keeper_documents import Documents


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
    subject = judge_certificate(cert, policy=policy, now=now, source=source, verified=verified)
    return decide(subject, login=login, node=node, policy=policy, now=now)
