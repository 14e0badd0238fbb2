"""Rotations of the CAs, as auth makes them: each step is one transaction, with the policy that tells of it.

What a step means is ``core.rotation``'s. A compromise is no rotation: every key is replaced at once, and nothing leads
from the old ones to the new ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tinyport.auth.authority import new_authorities, new_key
from tinyport.auth.key_ring import KeyRing
from tinyport.auth.service import Service
from tinyport.auth.store import Tables, WriteTables
from tinyport.auth.store_authorities import ACTIVE, NEW
from tinyport.core import rotation as r
from tinyport.core.errors import PeerError
from tinyport.core.names import printable
from tinyport.core.rotation import Rotation
from tinyport.core.succession import key_blob, make_succession

#: types of which proxies show certificates
_SHOWN = frozenset(("host", "tls"))
# What a listing of those who have not followed shows.
_MOST_NAMES = 50


async def rotate(
    service: Service, types: Sequence[str], phase: str, *, by: str, grace: int | None = None, force: bool = False
) -> list[Rotation]:
    """Take the CAs of ``types`` to ``phase``, all of them or none. ``grace``: seconds, for init: the rest goes by
    itself. PeerError when that phase cannot follow, or while a proxy needs the CA that it ends, unless ``force``."""
    try:
        async with service.store.write() as tables:
            if phase == r.STANDBY and not force and (waits := await _proxies_behind(service, tables, types)):
                raise PeerError(
                    f"{printable(', '.join(waits), 300)} would show certificates that no machine believes any more",
                    hint="its log says why it does not renew; when it is to be left behind, stop it or give --force",
                    code="in_use",
                )
            made = [await _step(service, tables, type, phase, grace) for type in types]
            await _have_renewed(service, tables)
            await service.authority.reload(tables)
            await service.issuer.refresh(tables)
            for rotation in made:
                await service.audit.record(
                    tables, "ca.rotate", type=rotation.type, phase=rotation.phase, by=by, grace=rotation.grace
                )
    except BaseException:
        # What did not get to the disk must not sign anything.
        await service.authority.reload(service.store.read)
        raise
    service.log.info("rotation", phase=phase, types=",".join(types), by=by)
    return made


async def _step(service: Service, tables: WriteTables, type: str, phase: str, grace: int | None) -> Rotation:
    now = service.now()
    before = (await tables.authorities.rotations()).get(type) or Rotation(type)
    after, action = r.step(before, phase, now, grace)
    if action == "make":
        await tables.authorities.add(service.authority.kept(new_key(type, service.cluster, now, NEW)), now)
    elif action == "take":
        await tables.authorities.retire(type, service.authority.ring.rows[type, ACTIVE].public, now)
        await tables.authorities.take_new(type)
    elif action == "drop":
        await tables.authorities.drop(type, NEW)
    if type == "tls" and phase == r.UPDATE_SERVERS:
        # From here on servers show what only the new CA vouches for.
        await tables.authorities.add_succession(_succession(service, service.authority.ring, now), now)
    elif type == "tls" and phase == r.ROLLBACK and before.phase == r.UPDATE_SERVERS:
        await tables.authorities.drop_last_succession()
    await tables.authorities.put_rotation(after)
    return after


def _succession(service: Service, ring: KeyRing, now: float) -> dict[str, str]:
    old, new = ring.tls[ACTIVE], ring.tls[NEW]
    blob = key_blob(old.key.public_key().public_bytes_raw())
    return make_succession(ring.policy_key, service.cluster, blob, new.pem, now, old.key.sign)


async def _have_renewed(service: Service, tables: WriteTables) -> None:
    """Every machine is to renew its certificate: by that it takes up what this step brought, and we see who did."""
    machines = len(await tables.nodes.all("node")) + len(await tables.nodes.all("proxy"))
    # Certificates of this second may be from before the step, those of the step before are in any case.
    before = max(int(service.now()), service.authority.renew_before) + 1
    await tables.cluster.set_meta("renew_before", str(before))
    await tables.cluster.set_meta("renew_within", f"{r.spread_over(machines):.1f}")


async def advance(service: Service) -> None:
    """Take the rotations on that have a grace period and whose time has come."""
    due: dict[str, list[str]] = {}
    for type, rotation in service.authority.ring.rotations.items():
        phase = r.due(rotation, service.now())
        if phase is not None:
            due.setdefault(phase, []).append(type)
    for phase, types in due.items():
        if phase == r.STANDBY and await _must_wait(service, types):
            continue
        await rotate(service, types, phase, by="grace period")


async def _must_wait(service: Service, types: Sequence[str]) -> bool:
    """Is it not yet time to end the old CAs? Just after a start it is not known which proxies there are."""
    settled = service.presence.settled(service.settings.monotonic())
    return not settled or bool(await _proxies_behind(service, service.store.read, types))


async def _proxies_behind(service: Service, tables: Tables, types: Sequence[str]) -> list[str]:
    """Names of the connected proxies that still show a certificate from before the last step. People and nodes would
    take it no more once its CA is ended, and a fleet with its only proxy would be gone. A proxy that does not renew
    cannot put it off for ever: when its certificate has ended it is connected no more."""
    if not set(types) & _SHOWN:
        return []
    issued = await tables.authorities.last_issued()
    monotonic = service.settings.monotonic()
    return sorted(
        proxy.name
        for proxy in await tables.nodes.all("proxy")
        if service.presence.proxy_online(proxy.uuid, monotonic)
        and issued.get(proxy.uuid, 0.0) < service.authority.renew_before
    )


async def rotation_state(service: Service) -> dict[str, Any]:
    """Where each CA is, and who has followed: the ``rotation`` of ``GET /v1/status``."""
    rotations = service.authority.ring.rotations
    since = service.authority.renew_before
    followed, behind = await _followers(service, service.store.read, since) if since else ({}, [])
    late = [one.type for one in rotations.values() if r.due(one, service.now()) == r.STANDBY]
    return {
        "types": [_shown(rotations.get(type) or Rotation(type)) for type in r.TYPES],
        "renew_before": since or None,
        "followed": followed,
        "behind": behind[:_MOST_NAMES],
        "waits_for": await _proxies_behind(service, service.store.read, late),
        "logins": await _logins(service, since),
    }


async def _logins(service: Service, since: float) -> list[dict[str, object]]:
    """Whose logins are from before the last step, while a rotation is under way: the last to end first."""
    if all(one.phase == r.STANDBY for one in service.authority.ring.rotations.values()):
        return []
    found = await service.store.read.authorities.logins_from_before(since, service.now())
    last_first = sorted(found.items(), key=lambda item: -item[1])
    return [{"user": user, "until": until} for user, until in last_first[:_MOST_NAMES]]


def _shown(rotation: Rotation) -> dict[str, object]:
    return {
        "type": rotation.type,
        "phase": rotation.phase,
        "started": rotation.started or None,
        "changed": rotation.changed or None,
        "grace": rotation.grace,
        "next_at": rotation.next_at,
    }


async def _followers(
    service: Service, tables: Tables, since: float
) -> tuple[dict[str, dict[str, int]], list[dict[str, object]]]:
    """(kind → how many of how many have a certificate from after ``since``, the others: online ones first)."""
    issued = await tables.authorities.last_issued()
    counts = {}
    behind: list[dict[str, object]] = []
    monotonic = service.settings.monotonic()
    for kind in ("node", "proxy"):
        machines = await tables.nodes.all(kind)
        late = [machine for machine in machines if issued.get(machine.uuid, 0.0) < since]
        counts[kind] = {"followed": len(machines) - len(late), "of": len(machines)}
        for machine in late:
            online = (
                service.presence.online(machine.uuid)
                if kind == "node"
                else service.presence.proxy_online(machine.uuid, monotonic)
            )
            behind.append({"name": machine.name, "kind": kind, "online": online})
    behind.sort(key=lambda one: (not one["online"], str(one["name"])))
    return counts, behind


# -------------------------------------------------------------------- compromise


async def replace_everything(service: Service, *, by: str) -> Mapping[str, Collection[str]]:
    """Somebody else may have the cluster's keys: all are replaced, now, and no statement leads from them to the new
    ones. Machines that are connected hear one last document under the old policy key: it names the new user CA alone,
    so that whoever has the old one opens nothing there any more, and nothing can supersede it.

    → names of the machines that were connected (``told``) and of the others.
    """
    now = service.now()
    fresh = new_authorities(service.cluster, now)
    public = {row.type: row.public for row in fresh}
    try:
        async with service.store.write() as tables:
            await service.issuer.last_word(
                tables,
                {"user_cas": [public["user"]], "host_cas": [public["host"]], "tls_cas": [public["tls"]]},
            )
            for row in await tables.authorities.all():
                await tables.authorities.drop(row.type, row.state)
            for row in fresh:
                await tables.authorities.add(service.authority.kept(row), now)
            for type in r.TYPES:
                await tables.authorities.put_rotation(Rotation(type, r.STANDBY, now, now))
                await tables.authorities.forget_retired(type)
            await tables.authorities.forget_successions()
            await _have_renewed(service, tables)
            await service.authority.reload(tables)
            await service.issuer.refresh(tables)
            machines = [*await tables.nodes.all("node"), *await tables.nodes.all("proxy")]
            for machine in machines:
                await service.issuer.refresh_node(tables, machine.uuid, again=True)
            await service.audit.record(tables, "ca.compromised", by=by)
    except BaseException:
        await service.authority.reload(service.store.read)
        raise
    monotonic = service.settings.monotonic()
    told = {
        machine.name
        for machine in machines
        if service.presence.online(machine.uuid) or service.presence.proxy_online(machine.uuid, monotonic)
    }
    service.log.warning("every key of the cluster was replaced", by=by)
    return {"told": sorted(told), "not_told": sorted({machine.name for machine in machines} - told)}
