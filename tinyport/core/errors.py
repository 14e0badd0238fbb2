"""Errors, sorted by whose fault they are.

Every error has two sentences: ``message`` may be read by the stranger at the other end or by the person at the
terminal; ``detail`` is for our own log. ``hint`` says what to do next, ``code`` is the machine-readable name of the
refusal (the ``code`` of the auth API's error object). Library exceptions are turned into these at the door.

This module is loaded by monitor and link and must stay free of ``typing`` and ``dataclasses``.
"""

from __future__ import annotations


class TinyportError(Exception):
    """Base of all errors that tinyport raises on purpose."""

    default_code = "failed"

    def __init__(self, message: str, *, detail: str = "", hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.code = code or self.default_code
        #: further fields of the API's error object (``candidates``, ``since``, ``retry_after``)
        self.extra: dict[str, object] = {}

    def __str__(self) -> str:
        return f"{self.message} ({self.detail})" if self.detail else self.message


class PeerError(TinyportError):
    """The other end sent something that its protocol does not allow."""

    default_code = "bad_request"


class AccessDenied(TinyportError):
    """Policy says no. Nobody did anything wrong with the wire."""

    default_code = "denied"


class OperatorError(TinyportError):
    """Configuration, files or a command on our own side are not right."""

    default_code = "operator"


class Unavailable(TinyportError):
    """Something that is needed does not answer. It may help to try again."""

    default_code = "unavailable"


class ConfigError(OperatorError):
    """A document with settings is wrong; carries every problem that was found, not only the first."""

    default_code = "config"

    def __init__(self, problems: list[str], *, hint: str = "") -> None:
        super().__init__("; ".join(problems) or "the configuration is wrong", hint=hint)
        self.problems = list(problems)
