"""What docs/install.md has people write onto cards: the configurations are good, and a fleet's image works."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.packaging.conftest import People
from tests.scenarios.cluster import BIN, LIMIT, wait_for
from tinyport.admin import config_file
from tinyport.core.config import parse_config

ROOT = Path(__file__).resolve().parents[2]
INSTALL = (ROOT / "docs" / "install.md").read_text()
PIN = "sha256:" + "ab" * 32


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", INSTALL, re.M | re.S)


def configurations() -> list[str]:
    """Every tinyport.toml in the page, in blocks of its own, in cloud-init's and in a script."""
    found = blocks("toml")
    for text in blocks("yaml"):
        for part in re.findall(r"content: \|\n((?: {6}.*\n)+)", text):
            found.append(re.sub("^ {6}", "", part, flags=re.M))
    for text in blocks("sh"):
        found += re.findall("<<'END'\n(.*?)^END$", text, re.M | re.S)
    return found


def board(people: People) -> str:
    """The node whose name is made as the recipe says; "" before there is one."""
    names = [node["name"] for node in people.cluster.tctl_json("nodes", "ls")["nodes"]]
    return next((name for name in names if re.fullmatch("pi-[0-9a-f]{16}", name)), "")


def test_every_configuration_in_the_page_is_good() -> None:
    found = configurations()
    assert len(found) == 3
    for text in found:
        document = config_file.parse_toml(text.replace("sha256:...", PIN), "install.md")

        def absent(path: str) -> str:
            raise FileNotFoundError(2, "No such file or directory", path)

        config = parse_config(document, "install.md", absent)
        assert config.roles == ("node",)
        assert config.tinyport.nodename == "pi-{serial}"
        assert config.tinyport.token_file == "/boot/firmware/tinyport-token"


def test_cloud_inits_file_is_what_cloud_init_reads() -> None:
    (text,) = blocks("yaml")
    assert text.startswith("#cloud-config\n")
    assert "\t" not in text
    # Of its keys, those that there are.
    assert set(re.findall(r"^(\w+):", text, re.M)) == {"write_files", "runcmd"}


def test_commands_in_the_page_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    from tinyport.admin.main import build_parser
    from tinyport.admin.tctl import build_parser as tctl_parser

    for line in re.findall(r"^# (?:/opt/tinyport/bin/)?tinyport (.*)$", INSTALL, re.M):
        words = line.replace("...", "").split()
        build_parser().parse_args(words)
    for line in re.findall(r"`tctl ([a-z].*?)`", INSTALL):
        words = [word for word in line.split() if not word.isupper()]
        named = {
            **tctl_parser().commands(),
            **{f"{name} {sub}": None for name, group in tctl_parser().commands().items() for sub in group.commands()},
        }
        assert " ".join(words[:1]) in named or " ".join(words[:2]) in named, line


def test_an_images_token_serves_many_and_is_gone_from_each(people: People, tmp_path: Path) -> None:
    """One token, pending, with a template of the server's; two devices from the same image."""
    made = people.cluster.tctl_json(
        *("tokens", "add", "--type", "node", "--uses", "5", "--pending", "--name-template", "card-{uuid8}")
    )
    processes = []
    boards = []
    try:
        for number in (1, 2):
            board = tmp_path / str(number)
            board.mkdir()
            token = board / "tinyport-token"
            token.write_text(f"{made['token']}\n")
            place = f'{{ path = "{token}", erase = true }}'
            config = board / "tinyport.toml"
            config.write_text(
                people.toml(f"same-{number}", str(board / "data"), place, 'labels = { board = "sn {serial}" }\n')
            )
            with (board / "log").open("wb") as log:
                words = [str(BIN / "tinyport"), "start", "--roles=node", "-c", str(config)]
                processes.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            boards.append(board)

        def waiting() -> list[str]:
            listed = people.cluster.tctl_json("nodes", "ls")["nodes"]
            return [node["name"] for node in listed if node["name"].startswith("card-") and node["status"] == "pending"]

        wait_for("both to ask", lambda: len(waiting()) == 2)
        for board in boards:
            wait_for("the token to be gone", lambda board=board: not (board / "tinyport-token").exists())  # type: ignore[misc]
        for name in waiting():
            done = people.cluster.tctl("nodes", "accept", name)
            assert done.returncode == 0, done.stderr
        names = [
            node["name"]
            for node in people.cluster.tctl_json("nodes", "ls")["nodes"]
            if node["name"].startswith("card-")
        ]
        assert len(names) == 2
        for name in names:
            people.online(name)
            assert people.ssh(name, "echo $TINYPORT_NODE").strip() == name
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
            process.wait(LIMIT)
