"""Small values: SSH wire types, names, labels, durations, tokens, identities, the clock, documents, transcripts."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core import labels, names, sshwire, tokens
from tinyport.core.clock import ClusterClock
from tinyport.core.durations import format_duration, parse_duration, parse_size
from tinyport.core.errors import ConfigError, PeerError
from tinyport.core.events import CODES, event
from tinyport.core.identity import Identity, from_peer_certificate, parse_uri
from tinyport.core.policy import newer, open_document, sign_document
from tinyport.core.rights import allowed_logins, may, permits
from tinyport.core.roles import BUILTIN_ROLES, parse_role, role_document
from tinyport.core.signatures import Ed25519Key
from tinyport.core.sshwire import Reader
from tinyport.core.transcript import exchange_hash, parse_transcript
from tinyport.core.userauth import parse_publickey_request

UUID = "0b0e9c1a-93f1-4f0e-8a52-0d7e5a1d2c3b"


@given(st.integers(0, 2**4096))
def test_mpint_round_trip(value: int) -> None:
    assert Reader(sshwire.mpint(value)).mpint() == value


def test_mpint_vectors() -> None:
    # RFC 4251 section 5
    assert sshwire.mpint(0) == bytes.fromhex("00000000")
    assert sshwire.mpint(0x9A378F9B2E332A7) == bytes.fromhex("0000000809a378f9b2e332a7")
    assert sshwire.mpint(0x80) == bytes.fromhex("000000020080")


@pytest.mark.parametrize("data", ["0000000180", "00000001 00", "00000002 0001", "00000004 01"])
def test_mpints_of_another_form_are_refused(data: str) -> None:
    with pytest.raises(PeerError):
        Reader(bytes.fromhex(data)).mpint()


@given(st.binary(max_size=64))
def test_decoders_raise_peer_errors_only(data: bytes) -> None:
    for decode in (parse_transcript, parse_publickey_request):
        with pytest.raises(PeerError):
            decode(data)


@pytest.mark.parametrize("good", ["a", "greenhouse-7", "pi4.attic", "0"])
def test_node_names(good: str) -> None:
    assert names.check_node(good) == good


@pytest.mark.parametrize("bad", ["", "A", "-a", "a-", "a..b", "a b", "a\n", "ä", "x" * 64, UUID, 7, None, "a/b", "*"])
def test_bad_node_names(bad: object) -> None:
    with pytest.raises(PeerError):
        names.check_node(bad)


@pytest.mark.parametrize("bad", ["-rf", "a b", "root\n", "*", "", "a:b", "{{x}}"])
def test_bad_logins(bad: str) -> None:
    with pytest.raises(PeerError):
        names.check_login(bad)


@given(st.text(max_size=80))
def test_printable_has_nothing_to_hide(text: str) -> None:
    assert names.printable(text).isprintable()


def test_printable_escapes_what_moves_a_cursor() -> None:
    assert names.printable("a\x1b[2Jb\u202ec\n") == "a\\x1b[2Jb\\u202ec\\x0a"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("h:22", ("h", 22)), ("[::1]:3080", ("::1", 3080)), ("h", ("h", 3080)), ("::1", ("::1", 3080))],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert names.parse_address(text, 3080) == expected


@pytest.mark.parametrize("bad", ["", ":22", "h:x", "h:99999", "[::1", "h h:1", "h:-1", "h:٣"])
def test_bad_addresses(bad: str) -> None:
    with pytest.raises(PeerError):
        names.parse_address(bad, 1)


def test_selectors() -> None:
    node = {"site": "berlin", "model": "pi4"}
    assert labels.matches({"*": ["*"]}, {})
    assert labels.matches({"site": ["ber*"], "model": ["^pi[0-9]$"]}, node)
    assert not labels.matches({}, node)
    assert not labels.matches({"site": []}, node)
    assert not labels.matches({"site": ["paris"]}, node)
    assert not labels.matches({"rack": ["*"]}, node)
    assert not labels.matches({"model": ["^pi$"]}, node)
    assert not labels.matches({"*": ["berlin"]}, node)


def test_pairs() -> None:
    assert labels.parse_pairs(["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    for bad in (["a"], ["a=b", "a=c"], ["=x"], ["a=\x1b"]):
        with pytest.raises(PeerError):
            labels.parse_pairs(bad)


def test_durations() -> None:
    assert [parse_duration(t) for t in ("90s", "30m", "1h30m", "7d")] == [90, 1800, 5400, 604800]
    assert [format_duration(s) for s in (0, 59, 3600, 7500, 90061)] == ["0s", "59s", "1h", "2h 5m", "1d 1h"]
    for bad in ("", "5", "m", "-1s", "5y", "1.5h", "99999999w"):
        with pytest.raises(PeerError):
            parse_duration(bad)


def test_sizes() -> None:
    assert (parse_size("256kB"), parse_size("4MiB")) == (256_000, 4 * 1024**2)
    for bad in ("", "5", "5mb", "1kB2B"):
        with pytest.raises(PeerError):
            parse_size(bad)


def test_tokens() -> None:
    token = tokens.new(b"\x01" * 6, b"\x02" * 16)
    id, secret = tokens.split(token + "\n")
    assert f"{id}.{secret}" == token
    assert tokens.matches(secret, tokens.digest(secret))
    assert not tokens.matches(secret + "a", tokens.digest(secret))


@pytest.mark.parametrize("bad", ["", "abc", "abc.", ".secretsecretsecretsecret", "abc.short", "a.b c" + "d" * 20])
def test_what_is_no_token_is_not_repeated(bad: str) -> None:
    with pytest.raises(PeerError) as caught:
        tokens.split(bad)
    assert "secret" not in str(caught.value)


def test_identities() -> None:
    identity = Identity("node", "farm.example", UUID)
    assert parse_uri(identity.uri) == identity
    peer = {"subjectAltName": (("DNS", "x"), ("URI", identity.uri))}
    assert from_peer_certificate(peer) == identity


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "tinyport://farm/node",
        "tinyport://farm/admin/x",
        "tinyport://farm/node/not-a-uuid",
        f"tinyport://farm/node/{UUID}/x",
        f"https://farm/node/{UUID}",
        "tinyport://farm/user/a b",
        "tinyport://FARM/user/a",
    ],
)
def test_other_uris_are_nobody(uri: str) -> None:
    with pytest.raises(PeerError):
        parse_uri(uri)


@pytest.mark.parametrize("peer", [None, {}, {"subjectAltName": (("URI", "tinyport://a/user/b"), ("URI", "x"))}])
def test_exactly_one_uri(peer: object) -> None:
    with pytest.raises(PeerError):
        from_peer_certificate(peer)


def test_the_clock_never_goes_back() -> None:
    clock = ClusterClock(floor=1000.0)
    assert clock.now(0.0, 5.0) == 1000.0
    clock.confirm(2000.0, 5.0)
    assert clock.now(0.0, 15.0) == 2010.0
    clock.confirm(1500.0, 20.0)
    assert clock.now(0.0, 20.0) == 2010.0
    assert clock.skew(0.0, 20.0) == -1500.0


KEY = Ed25519Key.generate()


def body(**changes: Any) -> dict[str, Any]:
    return {"kind": "policy", "cluster": "farm", "epoch": 1, "serial": 5, **changes}


def test_documents_are_signed_for_one_kind_and_cluster() -> None:
    signed = sign_document(KEY, body())
    assert open_document(signed, KEY.public_blob, "policy", "farm")["serial"] == 5
    other = Ed25519Key.generate()
    wrong: list[tuple[object, bytes, str, str]] = [
        (signed, other.public_blob, "policy", "farm"),
        (signed, KEY.public_blob, "node", "farm"),
        (signed, KEY.public_blob, "policy", "barn"),
        ({**signed, "document": signed["document"].replace("5", "6")}, KEY.public_blob, "policy", "farm"),
        ({"document": signed["document"], "signature": "!"}, KEY.public_blob, "policy", "farm"),
        (None, KEY.public_blob, "policy", "farm"),
        ([], KEY.public_blob, "policy", "farm"),
    ]
    for case in wrong:
        with pytest.raises(PeerError):
            open_document(*case)


def test_documents_only_grow() -> None:
    assert newer(body(), None)
    assert newer(body(serial=6), body())
    assert newer(body(epoch=2, serial=1), body())
    assert not newer(body(), body())
    assert not newer(body(serial=4), body())
    for bad in (-1, "9", True, None, 2**70):
        with pytest.raises(PeerError):
            newer(body(serial=bad), body())


def test_transcripts() -> None:
    fields = [b"SSH-2.0-x", b"SSH-2.0-y", b"\x14a", b"\x14b", b"key"]
    data = b"".join(map(sshwire.string, fields)) + sshwire.string(b"Q")
    parsed = parse_transcript(data)
    assert (parsed.server_version, parsed.host_key) == (b"SSH-2.0-y", b"key")
    assert len(exchange_hash("sha256", data)) == 32
    with pytest.raises(PeerError):
        exchange_hash("md5", data)


def test_roles_round_trip() -> None:
    for document in BUILTIN_ROLES.values():
        role = parse_role(document)
        assert parse_role(role_document(role)) == role


def test_every_problem_of_a_role_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_role({"name": "a b", "allow": {"login": ["x"], "node_labels": {"*": ["x"]}}, "options": {"pty": "yes"}})
    text = "\n".join(caught.value.problems)
    for part in ("role name", "unknown key 'login'", 'the key "*"', "options.pty"):
        assert part in text


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["name", "allow", "deny", "logins", "node_labels", "rules", "options", "x"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_document_is_a_role_or_a_config_error(document: object) -> None:
    with contextlib.suppress(ConfigError):
        parse_role(document)


def test_merged_roles() -> None:
    access, admin = parse_role(BUILTIN_ROLES["access"]), parse_role(BUILTIN_ROLES["admin"])
    assert allowed_logins([access, admin], "alice", {"logins": ["pi", "*", "a b"]}) == ["pi"]
    assert may([admin], "users", "delete")
    assert not may([access], "users", "delete")
    assert not may([], "users", "read")
    assert permits([]) == frozenset()


def test_event_codes_are_one_to_one() -> None:
    assert len(set(CODES.values())) == len(CODES)
    assert event("session.start", time=1.23456, user="a", login=None) == {
        "event": "session.start",
        "code": "T2000I",
        "time": 1.235,
        "user": "a",
    }
    with pytest.raises(ValueError, match="not an audit event"):
        event("nonsense", time=0)
