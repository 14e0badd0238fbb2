"""Routes about the cluster as a whole: status, CA keys, why somebody may or may not."""

from __future__ import annotations

from tinyport.auth.explaining import explain_access
from tinyport.auth.rotating import rotation_state
from tinyport.auth.web import Answer, Call
from tinyport.core.names import check_login, check_user


async def status(call: Call) -> Answer:
    service = call.service
    rows = service.store.read
    nodes = await rows.nodes.all("node")
    online = sum(1 for node in nodes if node.state == "active" and service.presence.online(node.uuid))
    now = service.settings.monotonic()
    return {
        "cluster": service.cluster,
        "version": service.version,
        "ca_pins": list(service.authority.ca_pins),
        "nodes": {
            "online": online,
            "offline": sum(1 for node in nodes if node.state == "active") - online,
            "pending": sum(1 for node in nodes if node.state == "pending"),
            "quarantined": sum(1 for node in nodes if node.state == "quarantined"),
        },
        "users": await rows.users.count(),
        "policy_serial": service.issuer.policy.serial,
        "proxies": [
            {
                "uuid": proxy.uuid,
                "name": proxy.name,
                "online": service.presence.proxy_online(proxy.uuid, now),
                "addresses": list(proxy.addresses),
            }
            for proxy in await rows.nodes.all("proxy")
        ],
        "rotation": await rotation_state(service),
        "time": service.now(),
    }


async def authorities(call: Call) -> Answer:
    """``GET /v1/ca?type=``: public keys."""
    return {"keys": call.service.authority.public_keys(call.query("type", 16) or "user")}


async def explain(call: Call) -> Answer:
    """Which rule decides whether a user may be a login on a node."""
    fields = call.fields
    verdict, steps = await explain_access(
        call.service, fields.checked("user", check_user), fields.checked("login", check_login), fields.text("node", 300)
    )
    return {"verdict": verdict, "steps": steps}
