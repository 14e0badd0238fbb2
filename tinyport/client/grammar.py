"""What argparse cannot read: ssh's options on both sides of the target, and a command that is not looked at."""

from __future__ import annotations

import argparse
import getopt
from collections.abc import Sequence
from typing import Any

from tinyport.host.console import CommandLine, UsageError


class Forward(argparse.Action):
    """-L, -R and -D, in the order they were given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        kind = (option_string or "-L")[1]
        namespace.forwards = [*(getattr(namespace, "forwards", None) or []), (kind, values)]


class SshCommandLine(CommandLine):
    """ssh's grammar: options may stand on both sides of the target, and what follows it, from the first word that is
    no option on, is the command and not looked at.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, rest = self._leading_options(list(args or []))
        target = rest[0] if rest else None
        more, command = self._leading_options(rest[1:])
        # argparse would drop a "--" of the command's own.
        namespace, extra = super().parse_known_args([*options, *more], namespace)
        if target is None:
            self.error("the following arguments are required: TARGET")
        namespace.target, namespace.command = target, command
        return namespace, extra

    def _leading_options(self, words: list[str]) -> tuple[list[str], list[str]]:
        """Split ``words`` where the options end; a "--" there is taken away."""
        short, long = "", []
        for action in self._actions:
            takes = action.nargs != 0
            for name in action.option_strings:
                if name.startswith("--"):
                    long.append(name[2:] + ("=" if takes else ""))
                else:
                    short += name[1:] + (":" if takes else "")
        try:
            _, rest = getopt.getopt(words, short, long)
        except getopt.GetoptError as error:
            name = f"--{error.opt}" if len(error.opt) > 1 else f"-{error.opt}"
            if name not in self._option_string_actions:
                self.refuse(name)
            raise UsageError(str(error), hint=f'run "{self.prog} --help"') from None
        options = words[: len(words) - len(rest)]
        if options and options[-1] == "--":
            options.pop()
        return options, rest


class RunCommandLine(CommandLine):
    """Everything after the first ``--`` is the command, whatever it looks like."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(args or ())
        command: list[str] = []
        if "--" in words:
            at = words.index("--")
            words, command = words[:at], words[at + 1 :]
        found, rest = super().parse_known_args(words, namespace)
        found.command = command
        return found, rest
