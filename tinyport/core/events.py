"""Audit events: their names, their codes, and how one is made.

Codes are the field's: T for tinyport's (and Teleport's) sessions and users, the last letter says how bad it is (I
information, W warning, E error).
"""

from __future__ import annotations

CODES: dict[str, str] = {
    "user.login": "T1000I",
    "user.login.failed": "T1000W",
    "user.logout": "T1001I",
    "user.create": "T1002I",
    "user.update": "T1003I",
    "user.delete": "T1004I",
    "user.reset": "T1005I",
    "user.signup": "T1006I",
    "user.unlock": "T1007I",
    "user.locked_out": "T1008W",
    "user.factor.add": "T1009I",
    "user.factor.remove": "T1010I",
    "session.start": "T2000I",
    "session.join": "T2001I",
    "session.leave": "T2003I",
    "session.end": "T2004I",
    "session.kill": "T2005W",
    "session.data_lost": "T2009W",
    "recording.access": "T2012I",
    "recording.delete": "T2013I",
    "exec": "T3002I",
    "exec.failed": "T3002E",
    "port": "T3003I",
    "port.failed": "T3003E",
    "port.listen": "T3010I",
    "port.listen.failed": "T3010E",
    "agent.forward": "T3011I",
    "agent.forward.failed": "T3011W",
    "x11.forward": "T3008I",
    "x11.forward.failed": "T3008W",
    "auth.failed": "T3007W",
    "sftp": "TS001I",
    "sftp.end": "TS002I",
    "access.denied": "T3009W",
    "node.join": "TJ002I",
    "node.join.failed": "TJ002W",
    "proxy.join": "TJ003I",
    "node.return": "TJ004I",
    "node.renew": "TJ005I",
    "node.renew.failed": "TJ005W",
    "node.update": "TJ006I",
    "node.delete": "TJ007I",
    "node.quarantined": "TJ008W",
    "node.online": "TJ009I",
    "node.offline": "TJ010I",
    "node.register": "TJ012I",
    "node.unregister": "TJ013I",
    "node.split": "TJ014I",
    "node.over_budget": "TJ016W",
    "node.boot": "TJ017I",
    "node.boot.failed": "TJ017W",
    "token.create": "TT001I",
    "token.delete": "TT002I",
    "role.create": "T9000I",
    "role.delete": "T9001I",
    "role.update": "T9002I",
    "lock.create": "TLK00I",
    "lock.delete": "TLK01I",
    "config.update": "TCC01I",
    "trusted_cluster.create": "TTC01I",
    "trusted_cluster.update": "TTC02I",
    "trusted_cluster.delete": "TTC03I",
    "trusted_cluster.online": "TTC04I",
    "trusted_cluster.offline": "TTC05I",
    "trusted_cluster.use": "TTC06I",
    "certificate.issue": "TC000I",
    "break_glass.issue": "TC003I",
    "break_glass.use": "TC004W",
    "ca.rotate": "TC001I",
    "ca.compromised": "TC002W",
    "audit.prune": "TA003I",
    "auth.backup": "TA001I",
    "auth.restored": "TA002W",
    "events.lost": "TE001W",
}

#: What a node says beside its events, and nobody writes down: the names (``keepers``) of the processes on it that keep
#: sessions. A session whose start has a ``uid`` of another's has ended without a word.
LIVING = "node.living"
#: ``uid`` of an event: the name of the keeper that told it, and a number
UID_SEPARATOR = "-"
# Sixty-four that outlived their daemons, and today's; docs/protocol/node.md, generations.
MAX_LIVING = 128


def event(name: str, *, time: float, **fields: object) -> dict[str, object]:
    """One audit event, ``{"event", "code", "time", ...}``; ``time`` in Unix seconds. ValueError: no such event."""
    code = CODES.get(name)
    if code is None:
        raise ValueError(f"{name!r} is not an audit event")
    made: dict[str, object] = {"event": name, "code": code, "time": round(time, 3)}
    made.update((key, value) for key, value in fields.items() if value is not None)
    return made
