"""From settings to a running monitor: checks, joins when there is no identity, and becomes the monitor by ``exec``.

Configuration, ``cryptography`` and everything else that is needed once is used here, so that the monitor, which stays
for years, begins with an empty head.
"""

from __future__ import annotations

import json
import mmap
import os
import pwd
import random
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from tinyport.core.errors import ConfigError, OperatorError, TinyportError, Unavailable
from tinyport.core.names import format_address
from tinyport.core.version import VERSION
from tinyport.host import activation, files, identity_before, identity_file
from tinyport.host.files import private_folder
from tinyport.host.identity_file import Kept
from tinyport.host.locked_memory import lock_process, pin
from tinyport.host.logging_line import Log
from tinyport.host.sd_notify import notify
from tinyport.host.waiting import Waiting
from tinyport.link import http_proxy
from tinyport.node import enrol, identity_view
from tinyport.node.python_process import arguments, light_arguments, search_path, spawn
from tinyport.node.refused import Refusals
from tinyport.node.settings import NodeSettings

# Between tries to join while the server cannot be reached: a device may boot long before its network is there.
FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
# What is wrong with our own files, and not what auth says.
_OURS_TO_MEND = (OperatorError.default_code, ConfigError.default_code, "ca_pin")


def run(settings: NodeSettings) -> NoReturn:
    """Become the node's monitor. Raises TinyportError when that cannot be (configuration, refused token, pin, port)."""
    settings.check()
    log = Log("node.launcher", settings.log_level, settings.log_format)
    passed, left = activation.take((identity_view.STORED,))
    folder = settings.data_dir / "node"
    try:
        private_folder(folder)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OperatorError(
            f"{folder} cannot be made: {reason}", hint='a read-only machine has data_dir = "/run/tinyport"'
        ) from None
    view = identity_view.create()
    memory = left.get(identity_view.STORED, -1)
    if memory < 0:
        memory = os.memfd_create("tinyport-identity", os.MFD_CLOEXEC)
    place = Kept(None if settings.in_memory else folder / "identity.json", memory, folder)
    held = _out_of_swap(memory) if settings.in_memory else None
    identity = _identity(settings, place, view, log)
    identity_view.fill(view, identity)
    configuration = {
        **monitor_configuration(settings, folder, view, log),
        "identity_memory": memory,
        "boot": _boot_task(settings) if settings.in_memory and settings.device_key else None,
        "passed": passed,
    }
    descriptor = os.memfd_create("tinyport-configuration", 0)
    os.pwrite(descriptor, json.dumps(configuration).encode(), 0)
    for inherited in (*view, memory, *passed, *([] if settings.ready_fd is None else [settings.ready_fd])):
        os.set_inheritable(inherited, True)
    _no_core_dumps()
    argv = light_arguments("tinyport.node.monitor.monitor", call=f"main({descriptor})")
    # Until here: the monitor does it again, and says so when it may not.
    del held
    os.execv(argv[0], argv)


def _out_of_swap(memory: int) -> mmap.mmap | None:
    """While auth is away the keys of a boot lie in the memory file, for hours perhaps, and nobody touches them. What
    this process reads of them is not swapped either. Lasts as long as the result."""
    os.ftruncate(memory, max(os.fstat(memory).st_size, identity_file.MEMORY_SIZE))
    lock_process()
    return pin(memory)


def _identity(settings: NodeSettings, place: Kept, view: tuple[int, int], log: Log) -> dict[str, object]:
    """The identity that is kept, after joining when there is none."""
    identity = _held(place, format_address(*settings.server), log)
    if identity is None:
        if settings.in_memory:
            _boot(settings, place, view, log)
        else:
            _join(settings, place, view, log)
        identity = place.load()
    elif not settings.in_memory:
        identity = _again(settings, place, view, log, identity)
    if identity["kind"] != "node":
        raise OperatorError(f"{place.path} is not a node's identity but a {identity['kind']}'s")
    # A device that is known by a token alone needs it at each boot.
    used_up = not settings.in_memory or settings.device_key is not None
    if settings.token_file is not None and used_up and not _is_new(settings.token, identity):
        _erase(settings.token_file, log)
    if settings.in_memory:
        # From when this node kept its keys on the disk.
        for name in ("identity.json", "identity.pending.json", identity_before.SECRET, identity_before.PUBLIC):
            _erase(place.folder / name, log, "what was kept of an identity")
    return identity


def _is_new(token: str | None, identity: Mapping[str, object]) -> bool:
    """Is it another token than the one by which this device is what it is?"""
    before = identity.get(identity_file.CAME_BY)
    return token is not None and before is not None and token.partition(".")[0].strip() != before


def _again(
    settings: NodeSettings, place: Kept, view: tuple[int, int], log: Log, identity: dict[str, object]
) -> dict[str, object]:
    """Somebody has given this device another token than the one that it came by: perhaps because the cluster does not
    know it any more. It costs a question to auth, once; when nobody answers, the next start asks.
    """
    if not _is_new(settings.token, identity):
        return identity
    error = run_enrolment(_task(settings, place, "again"), view, place.memory)
    if error is not None:
        log.warning("this device has a new token, and did not join by it", reason=error, hint=error.hint or None)
    return place.load()


def _held(place: Kept, server: str, log: Log) -> dict[str, object] | None:
    """The newest identity of those on the disk and in memory, in both places and with this server, which may have
    changed: a cluster that moved must not strand its machines at their next renewal. None when there is none.
    """
    try:
        left = Kept(None, place.memory, place.folder).load()
    except FileNotFoundError:
        left = None
    except OperatorError as error:
        log.warning("what an earlier daemon left in memory is not used", reason=error)
        left = None
    found = left
    if place.path is not None:
        try:
            found = identity_file.load(place.path)
        except FileNotFoundError:
            # An operator has moved it away, to join anew.
            return None
        # The disk took nothing when it was renewed.
        if left is not None and left["uuid"] == found["uuid"] and _generation(left) > _generation(found):
            found = left
    if found is None:
        return None
    if found is left or found["server"] != server:
        place.save({**found, "server": server})
    elif place.memory is not None:
        identity_file.write_memory(place.memory, identity_file.text(found))
    return {**found, "server": server}


def _generation(identity: Mapping[str, object]) -> int:
    return int(str(identity["generation"]))


def _task(settings: NodeSettings, place: Kept, mode: str) -> dict[str, object]:
    return {
        "mode": mode,
        "identity": str(place.folder / "identity.json"),
        "in_memory": settings.in_memory,
        "log": {"level": settings.log_level, "format": settings.log_format},
        **_who(settings),
        "device_key": None if settings.device_key is None else dict(settings.device_key),
    }


def _who(settings: NodeSettings) -> dict[str, object]:
    return {
        "server": list(settings.server),
        "token": settings.token,
        "ca_pins": list(settings.ca_pins),
        "insecure": settings.insecure_no_ca_pin,
        "nodename": settings.nodename,
        "serial": settings.serial,
    }


def _boot_task(settings: NodeSettings) -> dict[str, object]:
    """How a node that runs boots anew in its cluster. The token is not for staying in memory."""
    assert settings.device_key is not None
    return {**_who(settings), "token": None, "device_key": dict(settings.device_key)}


def _join(settings: NodeSettings, place: Kept, view: tuple[int, int], log: Log) -> None:
    if settings.token is None:
        gone = "" if settings.token_file is None else f": {settings.token_file} is not there"
        raise OperatorError(
            f"this node has not joined a cluster, and there is no token to join with{gone}",
            hint='on the auth host, "tctl tokens add --type node" prints the line to run here',
        )
    # A wrong token stays wrong; asking again would only lock us out sooner.
    _enter(_task(settings, place, "join"), settings, place, view, log, lambda error: isinstance(error, Unavailable))


def _boot(settings: NodeSettings, place: Kept, view: tuple[int, int], log: Log) -> None:
    """Nobody stands next to it: whatever auth says, it may say something else in an hour."""
    if settings.device_key is None and settings.token is None:
        raise OperatorError(
            "a node that keeps its keys in memory has to say at each boot who it is",
            hint='give node.device_key = { path = "..." }, or a token that names its serial number',
        )
    _enter(_task(settings, place, "boot"), settings, place, view, log, lambda error: error.code not in _OURS_TO_MEND)


def _enter(
    task: Mapping[str, object],
    settings: NodeSettings,
    place: Kept,
    view: tuple[int, int],
    log: Log,
    may_pass: Callable[[TinyportError], bool],
) -> None:
    """Until auth has let us in, or there is something that waiting does not mend."""
    wait = FIRST_WAIT
    waiting = Waiting(place.folder)
    refusals = Refusals(place.folder, settings.token or "", log)
    while True:
        error = run_enrolment(task, view, place.memory)
        if error is None:
            waiting.over()
            refusals.forget()
            return
        if not may_pass(error):
            refusals.wait(error, settings.token_file)
            waiting.over()
            raise error
        pause = random.uniform(wait / 2, wait)  # noqa: S311 - spreads a fleet, guards nothing
        waiting.say(error.message)
        word = "cannot join yet" if task["mode"] == "join" else "nobody is served: this device is not let in yet"
        log.warning(
            word, server=format_address(*settings.server), reason=error, hint=error.hint, next_try=f"{pause:.0f}s"
        )
        # The boot goes on without us, and each try is a sign of life.
        notify("READY=1\nSTATUS=waiting to join the cluster\nWATCHDOG=1")
        time.sleep(pause)
        wait = min(wait * 2, LONGEST_WAIT)


def _erase(path: Path, log: Log, what: str = "the join token") -> None:
    """It has done its work. Also at a later start: the power may have failed in between."""
    try:
        if files.erase(path):
            log.info(f"{what} is erased", file=path)
    except OSError as error:
        log.warning(f"{what} could not be erased", file=path, reason=error)


def run_enrolment(task: Mapping[str, object], view: tuple[int, int], memory: int | None = None) -> TinyportError | None:
    """Run ``enrol`` in a process of its own, whose memory goes away with it. Returns its refusal, or None."""
    answer = os.memfd_create("tinyport-answer", os.MFD_CLOEXEC)
    question = os.memfd_create("tinyport-task", os.MFD_CLOEXEC)
    try:
        os.write(question, json.dumps(task).encode())
        os.lseek(question, 0, os.SEEK_SET)
        argv = arguments("tinyport.node.enrol", search_path())
        more = [] if memory is None else [memory]
        pid = spawn(argv, [answer, question, *view, *more], http_proxy.VARIABLES)
        os.waitpid(pid, 0)
        try:
            return enrol.raised(json.loads(os.pread(answer, enrol.MAX_ANSWER, 0)))
        except ValueError:
            return enrol.raised(None)
    finally:
        os.close(question)
        os.close(answer)


def monitor_configuration(settings: NodeSettings, folder: Path, view: tuple[int, int], log: Log) -> dict[str, object]:
    """Everything that the monitor is told (JSON), see ``monitor.main``."""
    user = _service_user(settings.user, log)
    return {
        "version": VERSION,
        "folder": str(folder),
        "view": list(view),
        "in_memory": settings.in_memory,
        "search_path": search_path(),
        "server": list(settings.server),
        "listen": [list(address) for address in settings.listen],
        "advertise": list(settings.advertise),
        "labels": dict(settings.labels),
        "commands": [[command.name, list(command.argv), command.period] for command in settings.commands],
        "worker_idle": settings.worker_idle,
        "keeper_idle": settings.keeper_idle,
        "connections_per_worker": settings.connections_per_worker,
        "memory_limit": settings.memory_limit,
        "login_grace": settings.login_grace,
        "client_alive": settings.client_alive,
        "startups": settings.max_startups,
        "sessions": settings.max_sessions,
        "penalties": settings.penalties,
        "penalty_exempt": [list(network) for network in settings.penalty_exempt],
        "banner": settings.banner,
        "user": user,
        "worker_user": _worker_user(settings.worker_user, user),
        "pam": _pam_service(settings) if user is not None else None,
        "log": {"level": settings.log_level, "format": settings.log_format},
        "ready_file": None if settings.ready_file is None else str(settings.ready_file),
        "ready_fd": settings.ready_fd,
        "reread": None
        if settings.reread is None
        else {"argv": list(settings.reread.argv), "task": dict(settings.reread.task)},
    }


def configuration_again(settings: NodeSettings) -> dict[str, object]:
    """What the monitor would be told if it were started now, for one that runs. Raises as ``run`` does."""
    settings.check()
    log = Log("node.launcher", settings.log_level, settings.log_format)
    return monitor_configuration(settings, settings.data_dir / "node", (-1, -1), log)


def _no_core_dumps() -> None:
    """Core files of link would hold the TLS key. The soft limit only: a user may raise it again in a session."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def _service_user(name: str | None, log: Log) -> dict[str, int] | None:
    """The account of link and workers. None when we are not root: then every process is what we are."""
    if os.geteuid() != 0:
        return None
    if name is None:
        raise OperatorError(
            "a node that runs as root needs an account for what faces the network", hint='create the user "tinyport"'
        )
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        try:
            entry = pwd.getpwnam("nobody")
        except KeyError:
            raise OperatorError(
                f"there is no user {name!r} on this machine", hint="useradd --system tinyport"
            ) from None
        log.warning("there is no user of that name; nobody is used instead", user=name)
    if entry.pw_uid == 0:
        raise OperatorError(f"the user {entry.pw_name!r} is root", hint="what faces the network must not be root")
    return {"uid": entry.pw_uid, "gid": entry.pw_gid}


def _worker_user(name: str, user: dict[str, int] | None) -> dict[str, int] | None:
    """The account of workers: their own, so that one that was taken over cannot so much as send link a signal. Link's,
    where there is none."""
    if user is None:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return user
    if entry.pw_uid == 0:
        raise OperatorError(f"the user {entry.pw_name!r} is root", hint="what faces the network must not be root")
    return {"uid": entry.pw_uid, "gid": entry.pw_gid}


def _pam_service(settings: NodeSettings) -> str | None:
    """The service whose stacks sessions go through. OperatorError when PAM was asked for, and cannot be had."""
    from tinyport.host import pam

    service = settings.pam_service
    if settings.pam is False or (settings.pam is None and not pam.has_service(service)):
        return None
    if not pam.has_service(service):
        raise OperatorError(
            f"pam is enabled, and there is no {pam.SERVICES}/{service}",
            hint="copy packaging/pam.d/tinyport there, or write pam = { enabled = false }",
        )
    try:
        pam.load()
    except OperatorError:
        if settings.pam:
            raise
        return None
    return service
