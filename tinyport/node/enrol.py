"""The process that joins, boots, renews and returns for a node. It loads ``cryptography``, and is gone again.

Started with its task (JSON) on fd 4, a pipe or memory file for its answer on fd 3, the two memory files of
``identity_view`` on fds 5 and 6, and the one with the identity on fd 7. The task: ``{"mode": "join"|"again"|"boot"|
"renew", "identity": path, "in_memory": whether nothing goes to that path, "log": {...}, for renew "servers":
["host:port", ...], "instance", "boot": as for boot or null, and for the others "server": [host, port], "token",
"ca_pins", "insecure", "nodename", "serial", "device_key": as the configuration says or null}``. The answer:
``{"ok": true, "unsaved": why the file is older than the memory}`` or
``{"error": {"kind", "message", "detail", "hint", "code"}}``.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from tinyport.core.errors import AccessDenied, OperatorError, PeerError, TinyportError, Unavailable
from tinyport.host.files import write_private
from tinyport.host.identity_file import Kept
from tinyport.host.locked_memory import lock_process
from tinyport.host.logging_line import Log
from tinyport.host.privileges import not_dumpable
from tinyport.node import identity_view
from tinyport.node.python_process import name_process

ANSWER, TASK, PUBLIC, SECRET, MEMORY = 3, 4, 5, 6, 7
MAX_TASK = 256 * 1024
MAX_ANSWER = 64 * 1024
# What an identity takes.
PROBE = 16 * 1024

# What auth says to a key that is not its node's any more.
_ANOTHER_TOOK_OVER = ("denied", "replaced", "removed")

_KINDS: dict[str, type[TinyportError]] = {
    kind.__name__: kind for kind in (AccessDenied, OperatorError, PeerError, Unavailable)
}


def main() -> None:
    """Do the task; exit status 0 when the identity is on the disk and in the memory files."""
    name_process("tinyport-enrol")
    # New keys are made here.
    not_dumpable()
    task = json.loads(_read_all(TASK, MAX_TASK))
    log = Log("node.enrol", task["log"]["level"], task["log"]["format"])
    if task.get("in_memory"):
        lock_process()
    path = Path(str(task["identity"]))
    place = Kept(None if task.get("in_memory") else path, MEMORY, path.parent)
    try:
        identity = perform(task, place, log)
        identity_view.fill((PUBLIC, SECRET), identity)
        answer: dict[str, object] = {"ok": True, "unsaved": place.unsaved}
    except TinyportError as error:
        answer = {"error": error_fields(error)}
    except OSError as error:
        answer = {"error": error_fields(OperatorError(f"cannot keep the identity: {error}"))}
    os.write(ANSWER, json.dumps(answer).encode())
    raise SystemExit(0 if "ok" in answer else 1)


def perform(task: Mapping[str, object], place: Kept, log: Log) -> dict[str, object]:
    """Join, join again when this device was put out, boot, or renew → the identity that was kept."""
    from tinyport.link import enrolment

    if task["mode"] == "renew":
        try:
            return _renewed(task, place, log)
        except AccessDenied as error:
            again = task.get("boot")
            if not isinstance(again, dict) or error.code not in _ANOTHER_TOOK_OVER:
                raise
            # Auth was restored from before this boot, or somebody else with the device key has been here meanwhile.
            log.warning("the certificate is not renewed; the device boots anew in the cluster", reason=error)
            return _entered({**again, "mode": "boot"}, place, log)
    if task["mode"] == "again" and not enrolment.put_out(place, str(task["token"])):
        return place.load()
    return _entered(task, place, log)


def _host_key(identity: Mapping[str, object]) -> str:
    """What an administrator compares before letting this device in."""
    from tinyport.core.certificate import fingerprint
    from tinyport.core.signatures import Ed25519Key

    return fingerprint(Ed25519Key.from_openssh(str(identity["ssh_key"]).encode()).public_blob)


def _entered(task: Mapping[str, object], place: Kept, log: Log) -> dict[str, object]:
    from tinyport.link import enrolment
    from tinyport.link.device_key import open_device_key

    token, pins, name = str(task["token"] or ""), _texts(task["ca_pins"]), str(task["nodename"])
    insecure, serial, said = bool(task["insecure"]), str(task["serial"]), task.get("device_key")
    server = _pair(task["server"])
    if task["mode"] == "boot":
        device = (
            open_device_key({str(key): str(value) for key, value in said.items()}) if isinstance(said, dict) else None
        )
        identity = enrolment.boot(server, token, pins, insecure, name, place, serial=serial, device=device, log=log)
    else:
        identity = enrolment.join(server, token, pins, insecure, "node", name, (), place, serial=serial, log=log)
    words = {word: identity[word] for word in ("cluster", "name", "uuid")}
    log.info("joined", **words, host_key=_host_key(identity))
    return identity


def _renewed(task: Mapping[str, object], place: Kept, log: Log) -> dict[str, object]:
    """At the first of the servers that answers as the cluster's; where the identity says, without any."""
    from tinyport.link import enrolment
    from tinyport.link.device_key import open_device_key

    why = refuses(place.folder) if task.get("may_wait") and place.path is not None else ""
    if why:
        # A reboot would bring the old certificate back, which is what a copied card looks like.
        raise OperatorError(f"the disk takes no certificate ({why}): the one that there is serves until its last day")
    again = task.get("boot")
    said = again.get("device_key") if isinstance(again, dict) else None
    device = None
    if isinstance(said, dict):
        with contextlib.suppress(TinyportError):
            # It is for a device that becomes another node; renewing needs no such key.
            device = open_device_key({str(key): str(value) for key, value in said.items()})
    servers, instance = _texts(task.get("servers", [])), str(task.get("instance") or "")
    last: TinyportError | None = None
    for server in servers or [""]:
        try:
            return enrolment.renew_or_return(place, server=server, log=log, instance=instance, device=device)
        except (Unavailable, PeerError) as error:
            # Nobody is there, or somebody else: the cluster may have moved.
            last = last or error
            log.info("renewal was not possible there", server=server, reason=error)
    assert last is not None
    raise last


def refuses(folder: Path) -> str:
    """Why nothing can be written there; "" when it can."""
    probe = folder / f".{os.getpid()}.probe"
    try:
        write_private(probe, b"x" * PROBE)
        probe.unlink()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def _pair(value: object) -> tuple[str, int]:
    assert isinstance(value, list)
    host, port = value
    return str(host), int(port)


def _texts(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(item) for item in value]


def error_fields(error: TinyportError) -> dict[str, str]:
    """An error, to be raised again by the process that asked (``raised``)."""
    kind = next((name for name, known in _KINDS.items() if isinstance(error, known)), "OperatorError")
    return {"kind": kind, "message": error.message, "detail": error.detail, "hint": error.hint, "code": error.code}


def raised(answer: object) -> TinyportError | None:
    """The error in an answer, None when it is a yes."""
    if isinstance(answer, dict) and answer.get("ok") is True:
        return None
    fields = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(fields, dict):
        return OperatorError("the enrolling process ended without an answer", hint="its log line says why")
    kind = _KINDS.get(str(fields.get("kind")), OperatorError)
    return kind(
        str(fields.get("message")),
        detail=str(fields.get("detail", "")),
        hint=str(fields.get("hint", "")),
        code=str(fields.get("code", "")),
    )


def _read_all(descriptor: int, limit: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as source:
        return source.read(limit)
