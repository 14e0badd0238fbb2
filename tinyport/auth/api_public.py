"""Routes for anyone: what a stranger may ask before having shown anything."""

from __future__ import annotations

import secrets

from tinyport.auth.web import Answer, Call
from tinyport.core.errors import PeerError


async def hello(call: Call) -> Answer:
    """What this cluster is. Its CAs are to be judged by a pin; nothing here is secret."""
    service = call.service
    trust = service.issuer.trust
    return {
        "version": service.version,
        "api": [1],
        "cluster": service.cluster,
        "time": service.now(),
        "tls_cas": service.authority.tls_cas,
        "successions": service.authority.successions,
        **({} if trust is None else {"trust": trust}),
        "challenge": service.challenges.make(service.now(), secrets.token_bytes(16)),
        "proxies": list(service.issuer.policy.proxies),
        "second_factor": service.issuer.config.second_factor,
    }


async def time(call: Call) -> Answer:
    """The time, signed for whoever asked: their nonce is in it, so an old statement is of no use."""
    nonce = call.query("nonce", 128)
    if nonce is None:
        raise PeerError("nonce: a text is needed")
    body = {"kind": "time", "cluster": call.service.cluster, "nonce": nonce, "time": call.service.now()}
    return call.service.authority.sign(body)
