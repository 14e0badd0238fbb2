"""``tinyport start``: the configuration file, what the command line says on top of it, and the roles running."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from tinyport.admin import config_file
from tinyport.admin.reread import again, checked
from tinyport.admin.token_input import read_token
from tinyport.core import tokens
from tinyport.core.errors import OperatorError, PeerError
from tinyport.core.labels import parse_pairs
from tinyport.core.names import printable
from tinyport.host.console import UsageError
from tinyport.host.sd_notify import notify

ROLES = ("auth", "proxy", "node")
#: what is called how among systemd's credentials: credential → section and key that it stands for
CREDENTIALS = {
    "tinyport.token": ("tinyport", "token"),
    "tinyport.key-passphrase": ("auth", "key_passphrase"),
    "tinyport.device-key": ("node", "device_key"),
}


def run(args: argparse.Namespace) -> int:
    """Run the enabled roles until SIGTERM. One role: this process becomes it. Several: a supervisor and its roles."""
    path = config_file.chosen_path(args.config)
    args.token = read_token(args.token)
    source = "command line" if path is None else str(path)
    document = with_credential(overridden({} if path is None else config_file.read_document(path), args))
    config = config_file.check(document, source)
    roles = config.roles
    if not roles:
        raise OperatorError("no role is enabled", hint="give --roles=node, or enable roles in tinyport.toml")
    if len(roles) == 1:
        return _become(roles[0], document, source, args.insecure_no_ca_pin, again(path, args))
    from tinyport.admin.local_cluster import LocalCluster
    from tinyport.admin.role_process import name_process
    from tinyport.admin.supervisor import Stopped, Supervisor
    from tinyport.host.logging_line import Log

    name_process("tinyport")
    supervisor = Supervisor(Log("tinyport", config.tinyport.log_level, config.tinyport.log_format))
    supervisor.install_signals()
    try:
        LocalCluster(document, source, supervisor, again(path, args)).start(insecure_no_ca_pin=args.insecure_no_ca_pin)
        notify("READY=1")
        supervisor.watch()
    except Stopped:
        pass
    finally:
        notify("STOPPING=1")
        supervisor.stop()
    return 0


def _become(
    role: str,
    document: dict[str, Any],
    source: str,
    insecure_no_ca_pin: bool,
    reread: tuple[list[str], dict[str, object]],
) -> int:
    # Nothing to supervise: systemd or procd does that better, and a device's memory is dear.
    from tinyport.admin.local_cluster import role_document, with_token
    from tinyport.start import run_role

    config = config_file.check(document, source)
    mine = with_token(role, role_document(role, document, config), config)
    return run_role(
        role,
        config_file.check(mine, source),
        None,
        insecure_no_ca_pin=insecure_no_ca_pin,
        again=reread,
        read=lambda: checked(role, reread[1]),
    )


def overridden(document: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """A parsed file with what the command line says put over it."""
    changed = {name: dict(section) if isinstance(section, Mapping) else section for name, section in document.items()}
    general = _section(changed, "tinyport")
    for key in ("data_dir", "server", "nodename", "ca_pin", "diag_addr"):
        # A daemon of an earlier version has handed on fewer words (reread.py).
        value = getattr(args, key, None)
        if value:
            general[key] = os.path.abspath(value) if key == "data_dir" else value
    if args.token:
        general["token"] = {"path": os.path.abspath(args.token)} if _is_file(args.token) else args.token
    if getattr(args, "debug", False):
        general["log"] = {**_section(general, "log"), "level": "debug"}
    if args.roles:
        wanted = roles_of(args.roles)
        for role in ROLES:
            if role in wanted or role in changed:
                _section(changed, role)["enabled"] = role in wanted
    if args.labels:
        node = _section(changed, "node")
        node["labels"] = {**_section(node, "labels"), **_labels(args.labels)}
    return changed


def with_credential(document: dict[str, Any]) -> dict[str, Any]:
    """``document`` with the secrets that systemd holds for this service (systemd.exec(5), LoadCredential=), where the
    file and the command line name none. One for a role that the file does not have is nobody's.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")
    for credential, (name, key) in CREDENTIALS.items():
        path = os.path.join(folder, credential)
        section = document.get(name, {} if name == "tinyport" else None)
        if key == "device_key" and not _in_memory(section):
            continue
        if isinstance(section, Mapping) and key not in section and os.path.isfile(path):
            document = {**document, name: {**section, key: {"path": path}}}
    return document


def _in_memory(node: object) -> bool:
    return isinstance(node, Mapping) and node.get("identity") == "memory"


def _is_file(text: str) -> bool:
    """``--token`` is a token or the name of a file. Ours have no slash; a word with a dot may be either, and then it is
    the token that it looks like.
    """
    if "/" in text:
        return True
    try:
        tokens.split(text)
    except PeerError:
        return os.path.exists(text)
    return False


def _section(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A section to write to. One that is no table stays as it is, for the check to complain about."""
    found = document.get(name, {})
    if not isinstance(found, Mapping):
        return {}
    document[name] = dict(found)
    section: dict[str, Any] = document[name]
    return section


def roles_of(text: str) -> tuple[str, ...]:
    """``"proxy,auth"`` → ("auth", "proxy"), in the order they start. UsageError for anything else."""
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in wanted if word not in ROLES]
    if unknown or not wanted:
        raise UsageError(f"unknown role {printable(','.join(unknown), 60)!r}", hint="roles are auth, proxy, node")
    return tuple(role for role in ROLES if role in wanted)


def _labels(text: str) -> dict[str, str]:
    try:
        return parse_pairs([pair for pair in text.split(",") if pair])
    except PeerError as error:
        raise UsageError(error.message, hint=error.hint) from None
