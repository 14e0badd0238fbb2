"""Routes about the cluster as a whole: status, CA keys, why somebody may or may not."""

from __future__ import annotations

from tinyport.auth.api_nodes import visible
from tinyport.auth.explaining import explain_access
from tinyport.auth.figures import memory_of_this_process, nodes_by_state, over_budget
from tinyport.auth.rotating import rotation_state
from tinyport.auth.trusting import state as trusted_state
from tinyport.auth.web import Answer, Call
from tinyport.core.names import check_login, check_user


async def status(call: Call) -> Answer:
    service = call.service
    rows = service.store.read
    now = service.settings.monotonic()
    return {
        "cluster": service.cluster,
        "version": service.version,
        "ca_pins": list(service.authority.ca_pins),
        "nodes": await nodes_by_state(service),
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
        "clusters": await trusted_state(service),
        "rotation": await rotation_state(service),
        "time": service.now(),
    }


async def figures(call: Call) -> Answer:
    """``GET /v1/figures``: what moves, for whoever watches it. Counts are since auth started."""
    service = call.service
    rows, now = service.store.read, service.settings.monotonic()
    counts = service.counts
    return {
        "cluster": service.cluster,
        "time": service.now(),
        "requests": counts.requests.total(),
        "events": dict(counts.events),
        "nodes": await nodes_by_state(service),
        "sessions": len(await rows.audit.live_sessions()),
        "memory": memory_of_this_process(),
        "traffic": await _traffic(call),
        "proxies": [
            {
                "name": proxy.name,
                "online": service.presence.proxy_online(proxy.uuid, now),
                "tunnels": service.presence.nodes_through(proxy.uuid),
            }
            for proxy in await rows.nodes.all("proxy")
        ],
    }


#: of the nodes that cost most today
MOST_SHOWN = 5


async def _traffic(call: Call) -> dict[str, object]:
    """What all nodes cost on the wire; by name those that cost most, of those that the asker may see."""
    service = call.service
    sums = service.traffic.all_sums(service.now())
    nodes = await service.store.read.nodes.all("node")
    costly = (node for node in nodes if node.uuid in sums and sums[node.uuid].today and visible(call.caller, node))
    most = sorted(costly, key=lambda node: -sums[node.uuid].today)[:MOST_SHOWN]
    return {
        "bytes": service.traffic.total,
        "today": sum(one.today for one in sums.values()),
        "month": sum(one.month for one in sums.values()),
        "over": len(over_budget(service, nodes)),
        "most": [{"name": node.name, "today": sums[node.uuid].today, "month": sums[node.uuid].month} for node in most],
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
