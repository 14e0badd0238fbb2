"""The pages say what is true: commands in them are read by the programs' own parsers, settings by their own checks;
links, files and targets of make exist.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyport.admin import config_file
from tinyport.admin.main import build_parser as tinyport_parser
from tinyport.admin.tctl import build_parser as tctl_parser
from tinyport.client.main import parser as tsh_parser
from tinyport.core.cluster_config import KEYS as CLUSTER_KEYS
from tinyport.core.cluster_config import parse_cluster_config
from tinyport.core.config import SECTIONS, parse_config
from tinyport.core.roles import parse_role
from tinyport.core.trust import parse_trusted_cluster
from tinyport.host.console import CommandLine, UsageError

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "packaging").rglob("*.md")])
PROGRAMS: dict[str, Callable[[], CommandLine]] = {"tsh": tsh_parser, "tctl": tctl_parser, "tinyport": tinyport_parser}
PIN = "sha256:" + 64 * "a"
USER_CA = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICYIXURDWrJnXDPjmzjxNSYXKUO+Tu/aprLnl+Gxqp8b user-ca@partner.example"
#: there once `make web` has run
MADE = {"tinyport/proxy/page/"}
TOKEN = "abcdefgh.0123456789abcdef0123456789"

# A fence may stand inside a list.
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:tsh|tctl|tinyport) [a-z-][^`]*)`")
#: what ends a command in a shell's line; two spaces begin the column of remarks
_ENDS = re.compile(r"\s{2,}| # |;| \| |>|&&|\)(?= |$)")
_LACKS = re.compile(
    r"arguments? (are|is) required|of the arguments .* required|expected .*one argument|requires argument"
)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of each block of code."""
    for _, language, text in _BLOCK.findall(page.read_text()):
        yield language, text


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command line of ours, in blocks and between backticks."""
    lines = []
    for language, text in blocks(page):
        if language in ("", "sh", "console"):
            lines += re.findall(r"^[ $#]*((?:tsh|tctl|tinyport) (?!serves)[a-z-].*)", text, re.MULTILINE)
            lines += re.findall(r"(?:&&|;|do|\$\() ((?:tsh|tctl|tinyport) [a-z-].*)", text)
    lines += _INLINE.findall(_BLOCK.sub("", page.read_text()))
    for line in lines:
        # What a shell puts in is one word.
        yield shlex.split(_ENDS.split(re.sub(r"\$\(.*?\)", "1", line))[0])


def problem(words: list[str]) -> str | None:
    """Why a program does not understand ``words``. What is only named ("tctl auth rotate", "tsh ls --cluster") may lack
    arguments.
    """
    try:
        PROGRAMS[words[0]]().parse_args(words[1:])
    except SystemExit:  # --help, which is there
        return None
    except UsageError as error:
        return None if _LACKS.search(error.message) else f"{' '.join(words)}: {error.message}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_understood(page: Path) -> None:
    # "..." and "a|b" are for people: the programs need not understand them.
    found = [words for words in commands(page) if not any("..." in word or "|" in word for word in words)]
    assert [said for words in found if (said := problem(words))] == []


def examples(parser: CommandLine) -> Iterator[str]:
    """Of a program's help, and of the help of each of its commands."""
    yield from parser.examples
    for command in parser.commands().values():
        yield from examples(command)


@pytest.mark.parametrize("program", PROGRAMS)
def test_examples_of_help_work_as_they_stand(program: str) -> None:
    for line in examples(PROGRAMS[program]()):
        # Other programs may stand before ours, or after.
        ours = re.findall(r"(?:^|\| |\$\()((?:tsh|tctl|tinyport) .*)", re.sub(r"\$\(date.*?\)", "1", line))
        assert ours or line.startswith(("ssh ", "systemctl ")), line
        for words in (shlex.split(_ENDS.split(one)[0].rstrip(')"')) for one in ours):
            # Nothing may lack here: these are typed.
            PROGRAMS[words[0]]().parse_args(words[1:])


@pytest.mark.parametrize("line", ["tctl node ls", "tsh ls --verbos", "tinyport start --roles=node --pin x"])
def test_a_planted_mistake_is_found(line: str) -> None:
    assert problem(line.split()) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_are_understood(page: Path) -> None:
    for language, text in blocks(page):
        if language == "toml":
            text = text.replace("sha256:...", PIN).replace("ID.SECRET", TOKEN)
            # Alternatives stand below each other.
            whole = text.count("port_forwarding = ") <= 1
            for part in [text] if whole else text.splitlines():
                check_settings(config_file.parse_toml(part, page.name))


def check_settings(document: dict[str, Any]) -> None:
    """As the program would that reads such a document. One without a kind is a part of one, or tinyport.toml."""
    kind = document.pop("kind", None)
    if kind == "cluster_config" or (kind is None and set(document) <= set(CLUSTER_KEYS)):
        parse_cluster_config({key: value for key, value in document.items() if key != "name"})
    elif kind == "trusted_cluster":
        parse_trusted_cluster(document | {key: USER_CA for key in ("user_ca", "host_ca") if key in document})
    elif kind == "role" or not set(document) <= {*SECTIONS, "trusted_clusters"}:
        if "port_forwarding" in document:
            document = {"options": document}
        if "rules" in document:
            document = {"allow": document}
        parse_role({"name": "x", **document})
    else:
        if "trusted_clusters" in document:
            document.setdefault("auth", {"cluster_name": "farm.example"})
        parse_config(document, "page", lambda path: USER_CA if path.endswith(".pub") else TOKEN)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text()):
            file = (page.parent / target) if target else page
            assert file.exists(), f"{page.name} links to {target}"
            if anchor:
                assert anchor in anchors(file), f"{page.name} links to {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"`((?:tinyport|tests|docs|packaging|tools|bench|web|demo|\.ci)/[\w./*-]+)`", text)
    assert [name for name in named if name not in MADE and not list(ROOT.glob(name.rstrip("/")))] == []
    rooms = re.findall(
        r"`((?:auth|proxy|node|link|core|host|client|admin|scenarios|interop|security)/[\w*-]+\.py)`", text
    )
    assert [name for name in rooms if not any(list(ROOT.glob(f"{top}/{name}")) for top in ("tinyport", "tests"))] == []
    units = re.findall(r"systemctl (?:[a-z]+|-\S+)(?: -\S+)* (tinyport[\w.-]*)", text)
    known = {path.name for path in (ROOT / "packaging/systemd").iterdir()}
    assert [unit for unit in units if not known & {unit, f"{unit}.service"}] == []
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)`", text)) - targets == set()
