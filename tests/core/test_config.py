"""tinyport.toml: every key, good and bad; and never anything but a Config or a ConfigError."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.certificate import public_line
from tinyport.core.config import Config, StaticTokenConfig, parse_config
from tinyport.core.errors import ConfigError, OperatorError
from tinyport.core.signatures import Ed25519Key

PIN = "sha256:" + "ab" * 32
OTHER_PIN = "sha256:" + "cd" * 32
TOKEN = "abcdefghij.klmnopqrstuvwxyz234567ab"
FILES = {"/token": f"{TOKEN}\n", "/pins": f"{PIN}\n{OTHER_PIN}\n", "/word": "nonsense"}


def read_secret(path: str) -> str:
    if path == "/large":
        raise OperatorError("/large is larger than 65536 bytes")
    try:
        return FILES[path]
    except KeyError:
        raise FileNotFoundError(2, "No such file or directory") from None


def parse(document: dict[str, Any]) -> Config:
    return parse_config(document, "t.toml", read_secret)


def problems(document: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(document)
    return caught.value.problems


def test_an_empty_file_enables_nothing() -> None:
    config = parse({})
    assert config == Config()
    assert config.roles == ()
    assert config.tinyport.data_dir == "/var/lib/tinyport"


def test_the_reference_configuration() -> None:
    config = parse(
        {
            "tinyport": {
                "nodename": "greenhouse-7",
                "data_dir": "/var/lib/tinyport",
                "server": "port.example.com:443",
                "token": {"path": "/token"},
                "ca_pin": PIN,
                "log": {"level": "info", "format": "text"},
            },
            "auth": {
                "enabled": True,
                "cluster_name": "farm.example",
                "listen": "0.0.0.0:3025",
                "static_tokens": [{"type": "node", "value": {"path": "/token"}, "labels": {"site": "berlin"}}],
            },
            "proxy": {
                "enabled": True,
                "listen": "0.0.0.0:3080",
                "public_addr": ["port.example.com:443"],
                "tls": {"cert": "/etc/tinyport/fullchain.pem", "key": "/etc/tinyport/key.pem"},
            },
            "node": {
                "enabled": True,
                "listen": ["[::]:3022"],
                "advertise": ["10.0.0.7:3022"],
                "identity": "memory",
                "device_key": {"path": "/key"},
                "labels": {"model": "pi4"},
                "commands": [{"name": "uptime", "command": ["uptime", "-p"], "period": "5m"}],
                "worker_idle": "60s",
                "connections_per_worker": 0,
                "memory_limit": "25%",
                "banner": "",
                "pam": {"enabled": False, "service": "tinyport"},
            },
        }
    )
    assert config.roles == ("auth", "proxy", "node")
    assert config.tinyport.server == ("port.example.com", 443)
    assert config.tinyport.token == TOKEN
    assert config.tinyport.ca_pins == (PIN,)
    assert config.auth.static_tokens == (StaticTokenConfig("node", TOKEN, {"site": "berlin"}),)
    assert config.proxy.tls_key == "/etc/tinyport/key.pem"
    assert config.node.listen == (("::", 3022),)
    assert config.node.advertise == ("10.0.0.7:3022",)
    assert config.node.commands[0].period == 300
    assert (config.node.memory_share, config.node.memory_bytes) == (0.25, None)


GOOD: list[tuple[str, str, object, object]] = [
    ("tinyport", "nodename", "pi-{serial}", "pi-{serial}"),
    ("tinyport", "nodename", "{mac}", "{mac}"),
    ("tinyport", "server", "port.example.com", ("port.example.com", 3080)),
    ("tinyport", "server", "[2001:db8::1]:443", ("2001:db8::1", 443)),
    ("auth", "listen", "10.0.0.1", ("10.0.0.1", 3025)),
    ("proxy", "listen", "127.0.0.1:0", ("127.0.0.1", 0)),
    ("proxy", "public_addr", "port.example.com", ("port.example.com:3080",)),
    ("proxy", "public_addr", [], ()),
    (
        "proxy",
        "proxy_protocol_from",
        ["10.0.0.0/8", "2001:db8::1"],
        ((4, 10 << 24, 8), (16, 0x20010DB8 << 96 | 1, 128)),
    ),
    ("node", "listen", [], ()),
    ("node", "listen", ["0.0.0.0:22", "[::1]:22"], (("0.0.0.0", 22), ("::1", 22))),
    ("node", "advertise", ["10.0.0.7"], ("10.0.0.7:3022",)),
    ("node", "worker_idle", "1m30s", 90),
    ("node", "connections_per_worker", 1, 1),
    ("node", "banner", "Welcome.\n", "Welcome.\n"),
    ("node", "user", "_tinyport", "_tinyport"),
    ("node", "labels", {"model": "pi4"}, {"model": "pi4"}),
]


@pytest.mark.parametrize(("section", "key", "written", "value"), GOOD)
def test_a_good_value(section: str, key: str, written: object, value: object) -> None:
    document = {section: {key: written}, "auth": {"cluster_name": "c", **({key: written} if section == "auth" else {})}}
    assert getattr(getattr(parse(document), section), key) == value


BAD: list[tuple[str, str, object, str]] = [
    ("tinyport", "nodename", "Pi 7", "lower-case letters"),
    ("tinyport", "nodename", "pi-{model}", "{serial}"),
    ("tinyport", "nodename", 7, "must be a text"),
    ("tinyport", "data_dir", "", "must be a text"),
    ("tinyport", "data_dir", "/var\0", "name of a file"),
    ("tinyport", "server", "port.example.com:https", "must be an address"),
    ("tinyport", "server", ":443", "must be an address"),
    ("tinyport", "server", 443, "must be an address"),
    ("tinyport", "token", {"file": "/token"}, "must be a text or { path"),
    ("tinyport", "token", {"path": "/gone"}, "cannot read /gone: no such file"),
    ("tinyport", "token", {"path": "/large"}, "larger than"),
    ("tinyport", "token", {"path": "/to\0ken"}, "must be a text or { path"),
    ("tinyport", "ca_pin", "sha256:1234", '"sha256:" and 64 hexadecimal digits'),
    ("tinyport", "ca_pin", {"path": "/word"}, '"sha256:" and 64 hexadecimal digits'),
    ("tinyport", "log", {"level": "loud"}, "must be one of debug, info"),
    ("tinyport", "log", {"colour": True}, "known are level, format"),
    ("tinyport", "log", "info", "must be a section"),
    ("tinyport", "diag_addr", "no port:x", "must be an address"),
    ("auth", "enabled", "yes", "must be true or false"),
    ("auth", "cluster_name", "Farm Example", "lower-case DNS names"),
    ("auth", "listen", "0.0.0.0:99999", "must be an address"),
    ("auth", "static_tokens", {"type": "node"}, "must be a list of tables"),
    ("auth", "static_tokens", [{"type": "node"}], "must be given"),
    ("auth", "static_tokens", [{"type": "auth", "value": TOKEN}], "must be one of node, proxy"),
    ("auth", "static_tokens", [{"type": "node", "value": "short.secret"}], "16 characters or more"),
    ("auth", "static_tokens", [{"type": "node", "value": TOKEN, "labels": {"a b": "c"}}], "label keys are"),
    ("auth", "static_tokens", ["word"], "must be a section"),
    ("proxy", "public_addr", [443], "must be a list of texts"),
    ("proxy", "proxy_protocol_from", ["10.0.0.1/8"], "must be networks"),
    ("proxy", "proxy_protocol_from", ["balancer.example"], "must be networks"),
    ("proxy", "forwarded", {"from": ["10.0.0.1/8"]}, "must be networks"),
    ("proxy", "forwarded", {"from": [], "header": "X-Real-IP"}, "must be one of X-Forwarded-For, Forwarded"),
    ("proxy", "forwarded", ["10.0.0.0/8"], "must be a section"),
    ("proxy", "public_addr", ["a b:443"], "must be an address"),
    ("proxy", "tls", {"cert": "/c.pem"}, "cert and key go together"),
    ("node", "listen", "nonsense:port", "must be an address"),
    ("node", "advertise", {"a": "b"}, "must be a list of texts"),
    ("node", "device_key", {"path": "/a/file"}, 'is for identity = "memory"'),
    ("node", "device_key", "/a/file", "must be a section"),
    ("node", "device_key", {}, 'must be { path = "/a/file" } or { agent ='),
    ("node", "device_key", {"path": "/a", "agent": "/b"}, 'must be { path = "/a/file" } or { agent ='),
    ("node", "device_key", {"path": "/a", "key": "ssh-ed25519 AAAA"}, 'must be { path = "/a/file" } or { agent ='),
    ("node", "device_key", {"path": "/a", "passphrase": "x"}, "node.device_key.passphrase: unknown key"),
    ("node", "identity", "cloud", "must be one of disk, memory"),
    ("node", "labels", {"model": 4}, "printable text"),
    ("node", "labels", {"model": "a\nb"}, "printable text"),
    ("node", "labels", ["model=pi4"], "must be a table"),
    ("node", "commands", {"name": "x"}, "must be a list of tables"),
    ("node", "commands", [{"name": "x"}], "needs a name and a command"),
    ("node", "commands", [{"name": "a b", "command": ["x"]}], "letters, digits"),
    ("node", "commands", [{"name": "x", "command": ["x"], "period": "5s"}], "at least 60 s"),
    ("node", "worker_idle", 60, "must be a duration"),
    ("node", "worker_idle", "soon", "must be a duration"),
    ("node", "connections_per_worker", -1, "whole number"),
    ("node", "connections_per_worker", True, "whole number"),
    ("node", "memory_limit", "0%", "a share such as"),
    ("node", "memory_limit", "lots", "a share such as"),
    ("node", "memory_limit", 64, "a share such as"),
    ("node", "banner", "x" * 5000, "at most 4096"),
    ("node", "pam", {"service": "../shadow"}, "name of a file in /etc/pam.d"),
    ("node", "pam", True, "must be a section"),
]


@pytest.mark.parametrize(("section", "key", "written", "said"), BAD)
def test_a_bad_value(section: str, key: str, written: object, said: str) -> None:
    document: dict[str, Any] = {"auth": {"cluster_name": "c"}, section: {"cluster_name": "c", key: written}}
    if section != "auth":
        del document[section]["cluster_name"]
    found = problems(document)
    assert len(found) <= 2
    assert said in found[0]
    assert found[0].startswith(f"t.toml: {section}.{key}")


def test_every_problem_comes_at_once() -> None:
    found = problems({"tinyport": {"nodname": "x"}, "node": {"worker_idle": "soon"}, "proxy": {"listen": 7}, "nod": {}})
    assert len(found) == 4
    assert "t.toml: nod: unknown key; did you mean 'node'?" in found
    assert "t.toml: tinyport.nodname: unknown key; did you mean 'nodename'?" in found


def test_an_unknown_key_that_resembles_nothing_lists_what_is_known() -> None:
    (found,) = problems({"proxy": {"xyzzy": 1}})
    known = "enabled, listen, public_addr, tls, proxy_protocol_from, forwarded"
    assert found == f"t.toml: proxy.xyzzy: unknown key; known are {known}"


def test_auth_needs_the_name_of_its_cluster() -> None:
    (found,) = problems({"auth": {"enabled": True}})
    assert "auth.cluster_name: must be given" in found


CA_LINE = public_line(Ed25519Key.generate().public_blob)
FILES["/partner.pub"] = f"{CA_LINE} partner\n"
AUTH = {"cluster_name": "farm.example"}


def test_trusted_clusters_take_their_keys_from_files() -> None:
    table = {"name": "partner.example", "user_ca": {"path": "/partner.pub"}}
    (cluster,) = parse({"auth": AUTH, "trusted_clusters": [table]}).trusted_clusters
    assert (cluster.name, cluster.enabled, len(cluster.user_cas), cluster.role_map) == ("partner.example", True, 1, ())
    pin = "sha256:" + "1" * 64
    FILES["/partner.pin"] = f"{pin}\nsha256:{'2' * 64}\n"
    for said, pins in (({"path": "/partner.pin"}, 2), (pin, 1), ([pin], 1)):
        dialled = {**table, "server": "port.partner.example:443", "ca_pin": said}
        (cluster,) = parse({"auth": AUTH, "trusted_clusters": [dialled]}).trusted_clusters
        assert (cluster.servers, len(cluster.ca_pins)) == (("port.partner.example:443",), pins)


@pytest.mark.parametrize(
    ("clusters", "problem"),
    [
        ([{"name": "p"}], "trusted_clusters[0]: user_ca: must be given"),
        ([{"name": "p", "user_ca": {"path": "/gone"}}], "trusted_clusters[0].user_ca: cannot read /gone"),
        ([{"name": "p", "user_ca": CA_LINE, "server": "p:1"}], "ca_pin: must be given beside server"),
        (
            [{"name": "p", "user_ca": CA_LINE, "server": "p:1", "ca_pin": {"path": "/gone"}}],
            "ca_pin: cannot read /gone",
        ),
        ([{"name": "p", "user_ca": CA_LINE}] * 2, "is there twice"),
        ([{"name": "p", "nope": 1}], "nope"),
        ({"name": "p"}, "must be a list of tables"),
    ],
)
def test_what_is_wrong_with_a_trusted_cluster_is_said(clusters: object, problem: str) -> None:
    assert any(problem in found for found in problems({"auth": AUTH, "trusted_clusters": clusters}))


def test_trust_is_auths_to_say() -> None:
    (found,) = problems({"trusted_clusters": [{"name": "p", "user_ca": CA_LINE}]})
    assert "needs an [auth] section" in found


def test_pins_come_as_a_text_a_list_or_a_file() -> None:
    assert parse({"tinyport": {"ca_pin": [PIN, OTHER_PIN]}}).tinyport.ca_pins == (PIN, OTHER_PIN)
    assert parse({"tinyport": {"ca_pin": {"path": "/pins"}}}).tinyport.ca_pins == (PIN, OTHER_PIN)
    assert parse({"tinyport": {"ca_pin": [{"path": "/pins"}]}}).tinyport.ca_pins == (PIN, OTHER_PIN)


def test_memory_is_a_share_or_a_size() -> None:
    assert parse({"node": {"memory_limit": "10%"}}).node.memory_share == 0.1
    node = parse({"node": {"memory_limit": "64MB"}}).node
    assert (node.memory_share, node.memory_bytes) == (None, 64_000_000)


def test_a_section_enables_its_role_unless_it_says_no() -> None:
    assert parse({"node": {"listen": []}}).roles == ("node",)
    assert parse({"node": {"enabled": False, "listen": []}}).roles == ()


def test_secrets_are_never_shown() -> None:
    config = parse({"tinyport": {"token": TOKEN}, "auth": {"cluster_name": "c", "static_tokens": [{"value": TOKEN}]}})
    assert TOKEN not in repr(config)
    secret = "hunter2hunter2hunter2"
    found = problems({"auth": {"cluster_name": "c", "static_tokens": [{"value": secret, "type": "x"}]}})
    assert secret not in " ".join(found)


def test_hostile_text_is_escaped_in_problems() -> None:
    found = problems({"node": {"worker_idle": "\x1b[31m", "\x1b]0;x\x07": 1}})
    assert "\x1b" not in " ".join(found)


def test_problems_have_a_bound() -> None:
    assert len(problems({"node": {f"key{number}": 1 for number in range(1000)}})) == 100


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.datetimes()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))
KEYS = sorted(
    {"nodename", "data_dir", "server", "token", "ca_pin", "log", "diag_addr", "enabled", "cluster_name", "listen"}
    | {"static_tokens", "public_addr", "tls", "advertise", "identity", "labels", "commands", "worker_idle", "user"}
    | {"device_key", "connections_per_worker", "memory_limit", "banner", "pam", "proxy_protocol_from", "forwarded"}
)
SECTIONS = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), VALUES, max_size=6) | VALUES
NAMES = st.sampled_from(("tinyport", "auth", "proxy", "node", "trusted_clusters")) | st.text(max_size=8)


@given(st.dictionaries(NAMES, SECTIONS, max_size=5))
def test_never_anything_but_a_config_or_a_config_error(document: dict[str, Any]) -> None:
    try:
        parse(document)
    except ConfigError as error:
        said = error.problems
    else:
        said = ["good"]
    assert said
    assert all(problem.isprintable() for problem in said)


def test_a_token_that_is_to_be_erased_may_be_gone() -> None:
    there = parse({"tinyport": {"token": {"path": "/token", "erase": True}}}).tinyport
    assert (there.token, there.token_file) == (TOKEN, "/token")
    gone = parse({"tinyport": {"token": {"path": "/gone", "erase": True}}}).tinyport
    assert (gone.token, gone.token_file) == (None, "/gone")
    kept = parse({"tinyport": {"token": {"path": "/token", "erase": False}}}).tinyport
    assert (kept.token, kept.token_file) == (TOKEN, None)


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ({"path": "/gone", "erase": False}, "cannot read /gone: no such file"),
        ({"path": "/large", "erase": True}, "larger than"),
        ({"path": "/token", "erase": "yes"}, "must be true or false"),
        ({"path": "/token", "erase": True, "shred": 1}, "unknown key"),
        ({"erase": True}, "must be a text or { path"),
    ],
)
def test_bad_tokens_that_are_to_be_erased(token: dict[str, Any], problem: str) -> None:
    assert any(problem in line for line in problems({"tinyport": {"token": token}}))
