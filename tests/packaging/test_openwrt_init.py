"""OpenWrt's init script under busybox, with recorders in place of procd: what it asks for, and what it writes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.scenarios.cluster import BIN
from tinyport.admin import config_file
from tinyport.core.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
FEED = ROOT / "packaging" / "openwrt"
FILES = FEED / "tinyport" / "files"
STAND_IN = Path(__file__).with_name("openwrt") / "rc.common"
PIN = "sha256:" + "ab" * 32
GOOD = {"enabled": "1", "server": "port.example.com:443", "ca_pin": [PIN]}

Options = Mapping[str, "str | Sequence[str]"]


class Router:
    """A folder with busybox's programs, the init script, and what was recorded."""

    def __init__(self, folder: Path) -> None:
        busybox = need_program("busybox")
        self.folder = folder
        self.programs = folder / "bin"
        self.programs.mkdir()
        applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for applet in applets:
            (self.programs / applet).symlink_to(busybox)
        logger = self.programs / "logger"
        logger.unlink(missing_ok=True)
        logger.write_text(f'#!/bin/sh\necho "logger $*" >> {folder}/record\n')
        logger.chmod(0o755)
        self.record = folder / "record"
        self.toml = folder / "run" / "tinyport.toml"

    def run(self, action: str, options: Options, *words: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(self.programs), "RECORD": str(self.record), "TEST_DIR": str(self.folder)}
        env["TEST_PROG"] = str(BIN / "tinyport")
        for name, value in options.items():
            if isinstance(value, str):
                env[f"CONFIG_node_{name}"] = value
                continue
            env[f"CONFIG_node_{name}_LENGTH"] = str(len(value))
            env.update({f"CONFIG_node_{name}_ITEM{index}": item for index, item in enumerate(value, 1)})
        words = (str(self.programs / "ash"), str(STAND_IN), str(FILES / "tinyport.init"), action, *words)
        return subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=60)

    def recorded(self) -> list[list[str]]:
        """What was asked for since the last time."""
        if not self.record.exists():
            return []
        lines = self.record.read_text().splitlines()
        self.record.unlink()
        return [line.removesuffix("\037").split("\037") for line in lines if not line.startswith("config_load")]


@pytest.fixture
def router(tmp_path: Path) -> Router:
    return Router(tmp_path)


def shipped_options() -> dict[str, str]:
    """What /etc/config/tinyport says as it is shipped."""
    text = (FILES / "tinyport.config").read_text()
    return dict(re.findall(r"^\toption (\w+) '([^']*)'$", text, re.M))


def test_it_does_nothing_until_it_is_configured(router: Router) -> None:
    assert shipped_options() == {"enabled": "0"}
    assert router.run("enable", shipped_options()).returncode == 0
    assert router.recorded() == [["enabled S95", "K05"]]
    router.run("start", shipped_options())
    router.run("reload", {**GOOD, "enabled": "0"})
    assert router.recorded() == [["sent"], ["sent"]]
    assert not router.toml.exists()


def test_starting(router: Router) -> None:
    token = router.folder / "token"
    options = {
        **GOOD,
        "nodename": "roof-7",
        "listen": ["[::]:3022", "127.0.0.1:22"],
        "label": ["site=roof", "note=a=b", "broken"],
        "token_file": str(token),
        "memory_limit": "10%",
        "log_level": "debug",
    }
    done = router.run("start", options)
    assert done.returncode == 0, done.stderr
    assert router.recorded() == [
        ["logger -t tinyport -p daemon.warn label without '=' left out: broken"],
        ["open"],
        ["set", "command", str(BIN / "tinyport"), "start", "--roles=node", "-c", str(router.toml)],
        ["set", "respawn", "3600", "5", "0"],
        ["set", "file", str(router.toml)],
        ["set", "reload_signal", "HUP"],
        ["set", "term_timeout", "10"],
        ["set", "stdout", "1"],
        ["set", "stderr", "1"],
        ["close"],
        ["sent"],
    ]
    config = config_file.load(router.toml)
    assert config.roles == ("node",)
    assert config.tinyport.server == ("port.example.com", 443)
    assert config.tinyport.ca_pins == (PIN,)
    assert config.tinyport.nodename == "roof-7"
    assert config.tinyport.token_file == str(token)
    assert config.tinyport.data_dir == str(router.folder / "data")
    assert config.tinyport.log_level == "debug"
    assert config.node.listen == (("::", 3022), ("127.0.0.1", 22))
    assert config.node.labels == {"site": "roof", "note": "a=b"}
    assert config.node.memory_share == 0.1
    assert (router.folder / "run").stat().st_mode & 0o777 == 0o700


def test_without_addresses_it_serves_through_its_tunnel_alone(router: Router) -> None:
    assert router.run("start", GOOD).returncode == 0
    assert config_file.load(router.toml).node.listen == ()


def test_keys_in_memory(router: Router) -> None:
    options = {**GOOD, "identity": "memory", "token_file": str(router.folder / "token")}
    (router.folder / "token").write_text("abcdefghij.klmnopqrstuvwxyz234567ab")
    assert router.run("start", options).returncode == 0
    config = config_file.load(router.toml)
    # By its token alone it is known at the next boot, too.
    assert (config.node.in_memory, config.node.device_key, config.tinyport.token_file) == (True, None, None)
    for option, key in (("device_key", "path"), ("device_key_agent", "agent")):
        router.recorded()
        # It takes another process.
        router.run("reload", {**options, option: "/mnt/stick/it"})
        assert router.recorded()[0] == ["kill", "tinyport"]
        config = config_file.load(router.toml)
        assert (config.node.device_key, config.tinyport.token_file) == (
            {key: "/mnt/stick/it"},
            str(router.folder / "token"),
        )
    assert "device_key" in router.run("start", {**options, "identity": "disk", "device_key": "/x"}).stderr


def test_a_wrong_configuration_starts_nothing_and_is_said(router: Router) -> None:
    done = router.run("start", {**GOOD, "server": "no port:x", "ca_pin": ["sha256:12"]})
    assert router.recorded() == [["logger -t tinyport -p daemon.err"], ["sent"]]
    for key in ("tinyport.server", "tinyport.ca_pin"):
        assert key in done.stderr
    assert not router.toml.exists()


def test_a_wrong_configuration_changes_nothing_while_there_is_a_good_one(router: Router) -> None:
    """Not even at a restart: who made the mistake may be far away, and connected through this node."""
    router.run("start", GOOD)
    asked = router.recorded()
    before = router.toml.read_text()
    for action, first in (("reload", []), ("start", []), ("restart", [["stopped"]])):
        done = router.run(action, {**GOOD, "server": "no port:x"})
        assert "tinyport.server" in done.stderr
        assert router.recorded() == [*first, ["logger -t tinyport -p daemon.err"], *asked]
        assert router.toml.read_text() == before
    router.run("restart", {**GOOD, "enabled": "0"})
    assert router.recorded() == [["stopped"], ["sent"]]


def test_reloading(router: Router) -> None:
    """procd compares with what it was sent before: nothing is nothing, another file is a signal."""
    assert router.run("triggers", GOOD).returncode == 0
    assert router.recorded() == [["trigger", "tinyport"]]
    router.run("start", GOOD)
    asked = router.recorded()

    router.run("reload", {**GOOD, "listen": ["[::]:3022"]})
    assert router.recorded() == asked
    assert ["set", "file", str(router.toml)] in asked
    assert config_file.load(router.toml).node.listen == (("::", 3022),)

    # Another server is for another process.
    router.run("reload", {**GOOD, "server": "other.example.com:443"})
    assert router.recorded() == [["kill", "tinyport"], *asked]
    router.run("reload", {**GOOD, "server": "other.example.com:443"})
    assert router.recorded() == asked
    # So is another version: apk starts what it has upgraded, and does not stop it.
    was = (router.folder / "run" / "started").read_text()
    (router.folder / "run" / "started").write_text(was.replace(VERSION, "0.0.9"))
    router.run("start", {**GOOD, "server": "other.example.com:443"})
    assert router.recorded() == [["kill", "tinyport"], *asked]

    router.run("stop", GOOD)
    assert router.recorded() == [["stopped"]]


HOSTILE = [
    'a"b',
    "a\\b",
    'a\\"',
    "$(reboot)",
    "`reboot`",
    "'",
    "a\tb",
    "a\nb",
    "\x7f",
    "ü€",
    "%s%n",
    "-n",
    "\\n",
    "",
    " a ",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_a_text_and_nothing_else(text: str, router: Router) -> None:
    shown = router.run("text", {}, text).stdout
    plain = "".join(char for char in text if char >= " " and char != "\x7f")
    assert config_file.parse_toml(f"x = {shown}\n", "t") == {"x": plain}


# ------------------------------------------------------------------ the feed


def variable(makefile: Path, name: str) -> str:
    found = re.search(rf"^{name}:=(.*)$", makefile.read_text(), re.M)
    assert found is not None, (makefile, name)
    return found[1].strip()


#: apk-tools accepts digits with dots, a letter, _suffixes, and -r with the release; opkg and dpkg order the same
APK_VERSION = re.compile(r"\d+(\.\d+)*[a-z]?(_(alpha|beta|pre|rc|cvs|svn|git|hg|p)\d*)*-r\d+")


@pytest.mark.parametrize("name", ["tinyport", "python-asyncssh", "python-aiosqlite"])
def test_versions_are_valid_for_ipk_and_for_apk(name: str) -> None:
    makefile = FEED / name / "Makefile"
    version = f"{variable(makefile, 'PKG_VERSION')}-r{variable(makefile, 'PKG_RELEASE')}"
    assert APK_VERSION.fullmatch(version)
    assert subprocess.run([need_program("dpkg"), "--validate-version", version], check=False).returncode == 0
    if name != "tinyport":
        assert re.fullmatch("[0-9a-f]{64}", variable(makefile, "PKG_HASH"))


def test_the_feed_builds_this_version() -> None:
    assert variable(FEED / "tinyport" / "Makefile", "PKG_VERSION") == VERSION


def test_recipes_are_indented_by_tabs() -> None:
    for makefile in FEED.glob("*/Makefile"):
        for block in re.findall(r"^define Build/\w+\n(.*?)^endef", makefile.read_text(), re.M | re.S):
            assert all(line.startswith("\t") for line in block.splitlines() if line)


def test_what_is_configured_is_kept_by_sysupgrade_and_dropbear_is_left_alone() -> None:
    makefile = (FEED / "tinyport" / "Makefile").read_text()
    kept = re.search(r"^define Package/tinyport/conffiles\n(.*?)^endef", makefile, re.M | re.S)
    assert kept is not None
    script = (FILES / "tinyport.init").read_text()
    data = re.search("^DATA_DIR=(.*)$", script, re.M)
    assert data is not None
    assert kept[1].split() == ["/etc/config/tinyport", f"{data[1]}/"]
    commands = "\n".join(line for line in script.splitlines() if not line.lstrip().startswith("#"))
    assert "dropbear" not in commands
    assert os.access(FILES / "tinyport.init", os.X_OK)
