"""A commented tinyport.toml, for people to start from."""

from __future__ import annotations

import argparse
import json


def commented_configuration(roles: tuple[str, ...], args: argparse.Namespace) -> str:
    """The text of a configuration file for ``roles``, with the options of ``tinyport configure`` filled in."""
    parts = [_general(args)]
    parts += [section(args) for name, section in (("auth", _auth), ("proxy", _proxy), ("node", _node)) if name in roles]
    return "\n".join(parts)


def _line(key: str, value: object | None, example: str, comment: str) -> str:
    """A setting, or its example behind a ``#``."""
    text = f"{key} = {example}" if value is None else f"{key} = {json.dumps(value)}"
    return f"{'# ' if value is None else ''}{text:<44}  # {comment}"


def _general(args: argparse.Namespace) -> str:
    joining = '# token = { path = "/etc/tinyport/token" }'
    if args.token:
        joining = "token = " + (
            f"{{ path = {json.dumps(args.token)} }}" if "/" in args.token else json.dumps(args.token)
        )
    return "\n".join(
        (
            "[tinyport]",
            _line("nodename", args.nodename, '"pi-{serial}"', "default: the host's name"),
            '# data_dir = "/var/lib/tinyport"',
            _line("server", args.server, '"port.example.com:443"', "where this machine finds its cluster"),
            f"{joining:<44}  # from tctl tokens add; not needed once joined",
            _line("ca_pin", args.ca_pin, '"sha256:..."', "whom to trust with the token"),
            '# log = { level = "info", format = "text" }   # format: text or json',
            "",
        )
    )


def _auth(args: argparse.Namespace) -> str:
    del args
    return "\n".join(
        (
            "[auth]",
            "enabled = true",
            'cluster_name = "farm.example"                 # cannot change later',
            '# listen = "0.0.0.0:3025"',
            "",
        )
    )


def _proxy(args: argparse.Namespace) -> str:
    del args
    return "\n".join(
        (
            "[proxy]",
            "enabled = true",
            '# listen = "0.0.0.0:3080"',
            '# public_addr = ["port.example.com:443"]      # how people and nodes reach it',
            '# tls = { cert = "/etc/tinyport/fullchain.pem", key = "/etc/tinyport/key.pem" }   # absent: self-made',
            "",
        )
    )


def _node(args: argparse.Namespace) -> str:
    labels = None
    if args.labels:
        labels = ", ".join(
            f"{json.dumps(k)} = {json.dumps(v)}" for k, _, v in (p.partition("=") for p in args.labels.split(","))
        )
    label_line = f"labels = {{ {labels} }}" if labels else '# labels = { model = "pi4" }'
    return "\n".join(
        (
            "[node]",
            "enabled = true",
            '# listen = ["[::]:3022"]                      # [] serves through the tunnel alone',
            '# advertise = ["10.0.0.7:3022"]',
            f"{label_line:<44}  # shown, never trusted",
            '# commands = [{ name = "uptime", command = ["uptime", "-p"], period = "5m" }]',
            '# worker_idle = "60s"',
            "# connections_per_worker = 0                  # 1: a process for each connection",
            '# memory_limit = "25%"',
            '# user = "tinyport"                           # who faces the network, when started as root',
            "",
        )
    )
