"""``tinyport configure``: a commented tinyport.toml, for people to start from."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tinyport.admin import config_file
from tinyport.admin.start_command import overridden, roles_of
from tinyport.admin.token_input import read_token
from tinyport.core.config import parse_config
from tinyport.core.errors import OperatorError
from tinyport.core.toml_text import value_of
from tinyport.host.files import write_private

_COMMENT_AT = 52
_TRUSTED_CLUSTER = """\
# [[trusted_clusters]]                              # whose people come here; docs/trusted-clusters.md
# name = "partner.example"
# user_ca = { path = "/etc/tinyport/partner-user-ca.pub" }
# role_map = [{ remote = "^(.*)-admin$", local = ["$1-guest"] }]
# server = "port.partner.example:443"               # absent: trust without a tunnel
# ca_pin = "sha256:..."
"""


def run(args: argparse.Namespace) -> int:
    """Print the file, or write it where nothing is yet. ConfigError when an option's value would not be accepted."""
    roles = roles_of(args.roles or "node")
    args.token = read_token(args.token)
    text = commented_configuration(roles, args)
    # What we write we must be able to read. A token's file may come later.
    parse_config(config_file.parse_toml(text, "tinyport.toml"), "tinyport.toml", lambda _: "id.0123456789abcdef")
    if args.output is None:
        print(text, end="")
        return 0
    if os.path.exists(args.output):
        raise OperatorError(f"{args.output} is there already", hint="move it away first")
    write_private(Path(args.output).absolute(), text.encode())
    return 0


def commented_configuration(roles: tuple[str, ...], args: argparse.Namespace) -> str:
    """The text of a configuration file for ``roles``, with the options of ``tinyport configure`` filled in."""
    sections = {"auth": _auth, "proxy": _proxy, "node": _node}
    text = [_general(args), *(sections[role](args) for role in roles)]
    return "\n".join([*text, _TRUSTED_CLUSTER] if "auth" in roles else text)


def _general(args: argparse.Namespace) -> str:
    general = overridden({}, args).get("tinyport", {})
    return _section(
        "tinyport",
        _line("nodename", general.get("nodename"), '"pi-{serial}"', "default: the host's name"),
        _line("data_dir", general.get("data_dir"), '"/var/lib/tinyport"', "where everything is kept"),
        _line("server", general.get("server"), '"port.example.com:443"', "the cluster's proxy; for a proxy, auth"),
        _line("token", general.get("token"), '{ path = "/etc/tinyport/token" }', "to join with; not needed afterwards"),
        _line("ca_pin", _one(general.get("ca_pin")), '"sha256:..."', "whom to trust with the token"),
        _line("log", None, '{ level = "info", format = "text" }', "debug, info, warning, error; text or json"),
        _line(
            "diag_addr", general.get("diag_addr"), '"127.0.0.1:3000"', "auth's figures; the proxy's on the next port"
        ),
    )


def _auth(args: argparse.Namespace) -> str:
    return _section(
        "auth",
        "enabled = true",
        _line("cluster_name", args.cluster_name or "farm.example", "", "cannot change later"),
        _line("listen", None, '"0.0.0.0:3025"', ""),
        _line("static_tokens", None, '[{ type = "node", value = { path = "/etc/tinyport/fleet-token" } }]', ""),
        _line("key_passphrase", None, '{ path = "/a/file" }', "what the cluster's private keys are encrypted with"),
        _line("audit", None, '{ file = "/var/log/tinyport/audit.jsonl", syslog = true }', "there, too"),
    )


def _proxy(args: argparse.Namespace) -> str:
    public = [args.public_addr] if args.public_addr else None
    return _section(
        "proxy",
        "enabled = true",
        _line("listen", None, '"0.0.0.0:3080"', "the one public port"),
        _line("public_addr", public, '["port.example.com:443"]', "where people and nodes reach it"),
        _line("tls", None, '{ cert = "/etc/tinyport/fullchain.pem", key = "/etc/tinyport/key.pem" }', "for browsers"),
        _line("proxy_protocol_from", None, '["10.0.0.6/32"]', "load balancers that speak the PROXY protocol"),
        _line("forwarded", None, '{ from = ["10.0.0.6/32"], header = "X-Forwarded-For" }', "and those that speak HTTP"),
    )


def _node(args: argparse.Namespace) -> str:
    labels = overridden({}, args).get("node", {}).get("labels")
    return _section(
        "node",
        "enabled = true",
        _line("listen", None, '["[::]:3022"]', "[] serves through the tunnel alone"),
        _line("advertise", None, '["10.0.0.7:3022"]', "addresses that are shown for it"),
        _line("identity", None, '"memory"', "no key on the disk; the device proves itself at each boot"),
        _line("device_key", None, '{ path = "/media/stick/device-key" }', "by this, which is not on the disk either"),
        _line("labels", labels or None, '{ model = "pi4" }', "shown, never trusted"),
        _line("commands", None, '[{ name = "uptime", command = ["uptime", "-p"], period = "5m" }]', ""),
        _line("pam", None, '{ enabled = true, service = "tinyport" }', "default: where /etc/pam.d/tinyport is"),
        _line("worker_idle", None, '"60s"', "how long a worker without connections stays"),
        _line("connections_per_worker", None, "0", "1: a process for each connection"),
        _line("memory_limit", None, '"25%"', "of this machine's memory, for sessions"),
        _line("login_grace", None, '"60s"', "how long signing in may take"),
        _line("client_alive", None, '"60s"', "asks clients that are silent for so long; 0s: never"),
        _line("max_startups", None, "100", "connections that are signing in"),
        _line("max_sessions", None, "512", "in one connection"),
        _line("penalties", None, '{ enabled = true, exempt = ["127.0.0.0/8", "::1/128"] }', "for sources that fail"),
        _line("banner", None, '""', "what is said before a login"),
        _line("user", None, '"tinyport"', "the account of what faces the network, when started as root"),
    )


def _section(name: str, *lines: str) -> str:
    return "\n".join((f"[{name}]", *lines, ""))


def _one(pins: object) -> object:
    return pins[0] if isinstance(pins, list) and len(pins) == 1 else pins


def _line(key: str, value: object | None, example: str, comment: str) -> str:
    """A setting, or an example behind a ``#``, which is one that works."""
    text = f"# {key} = {example}" if value is None else f"{key} = {value_of(value)}"
    return f"{text:<{_COMMENT_AT - 2}}  # {comment}" if comment else text
