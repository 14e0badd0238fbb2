"""``-o NAME=VALUE`` of ``tsh ssh`` and ``tsh scp``: the names of ssh_config(5) that mean something here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tinyport.client.escape import parse_escape
from tinyport.core.errors import OperatorError
from tinyport.core.names import printable


@dataclass(frozen=True)
class Options:
    """``request_pty``: None leaves it to -t and -T. ``keepalive``: (seconds, how many may stay unanswered)."""

    user: str | None = None
    forward_agent: bool = False
    forward_x11: bool = False
    request_pty: bool | None = None
    escape: int | None = ord("~")
    keepalive_interval: int = 30
    keepalive_count: int = 3
    exit_on_forward_failure: bool = False
    send_env: tuple[str, ...] = ()
    set_env: dict[str, str] = field(default_factory=dict)


def _flag(value: str) -> bool:
    return {"yes": True, "true": True, "no": False, "false": False}[value.lower()]


def _count(value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 6:
        raise ValueError(value)
    return int(value)


def _tty(value: str) -> bool | None:
    return {"yes": True, "force": True, "true": True, "no": False, "false": False, "auto": None}[value.lower()]


#: lower-case name → (our field, how to read the value)
_KNOWN: dict[str, tuple[str, Callable[[str], Any]]] = {
    "user": ("user", str),
    "forwardagent": ("forward_agent", _flag),
    "forwardx11": ("forward_x11", _flag),
    "requesttty": ("request_pty", _tty),
    "escapechar": ("escape", parse_escape),
    "serveraliveinterval": ("keepalive_interval", _count),
    "serveralivecountmax": ("keepalive_count", _count),
    "exitonforwardfailure": ("exit_on_forward_failure", _flag),
}
# Scripts written for ssh give these. A login never asks for a password here, and hosts are always checked.
_IGNORED = frozenset(
    (
        "batchmode",
        "forwardx11trusted",
        "loglevel",
        "userknownhostsfile",
        "globalknownhostsfile",
        "passwordauthentication",
        "preferredauthentications",
        "identitiesonly",
        "connecttimeout",
        "connectionattempts",
        "controlmaster",
        "controlpath",
        "controlpersist",
        "tcpkeepalive",
        "compression",
    )
)


def parse_options(texts: Sequence[str]) -> Options:
    """``["Name=value", "Name value"]`` → options; the first value of a name counts, as in ssh. OperatorError (wrong
    usage) for an unknown name or a value that it cannot have.
    """
    options = Options()
    seen: set[str] = set()
    for text in texts:
        name, value = _split(text)
        key = name.lower()
        if key in ("sendenv", "setenv"):
            options = _environment(options, key, value, text)
            continue
        if key == "stricthostkeychecking":
            if value.lower() in ("no", "off"):
                raise OperatorError(
                    "host keys are always checked here", hint="leave StrictHostKeyChecking out", code="usage"
                )
            continue
        if key in _IGNORED or key in seen:
            continue
        seen.add(key)
        if key not in _KNOWN:
            raise OperatorError(f"-o {printable(name, 60)} is not known here", hint=_hint(), code="usage")
        target, read = _KNOWN[key]
        try:
            changed: dict[str, Any] = {target: read(value)}
        except (KeyError, ValueError):
            raise OperatorError(f"-o {printable(text, 100)}: this value is not allowed", code="usage") from None
        options = replace(options, **changed)
    return options


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.strip().partition("=")
    if not equals or " " in name.strip():
        name, _, value = text.strip().partition(" ")
    return name.strip(), value.strip()


def _environment(options: Options, key: str, value: str, text: str) -> Options:
    if key == "sendenv":
        return replace(options, send_env=(*options.send_env, *value.split()))
    name, equals, setting = value.partition("=")
    if not equals or not name:
        raise OperatorError(f"-o {printable(text, 100)}: write SetEnv=NAME=VALUE", code="usage")
    return replace(options, set_env={**options.set_env, name: setting})


def _hint() -> str:
    return (
        "known are User, ForwardAgent, ForwardX11, RequestTTY, EscapeChar, ServerAlive*, ExitOnForwardFailure, "
        "SendEnv, SetEnv"
    )
