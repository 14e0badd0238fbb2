"""What an administrator types and reads, against a tiny auth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.admin.conftest import PIN, TOKEN, FakeAuth, Run
from tinyport.admin import tctl_nodes, tctl_tokens
from tinyport.admin.tctl import build_parser, main
from tinyport.host import moments

At = Callable[[Path], Run]
NOW = 1_800_000_000.0
NODE = {
    "name": "greenhouse",
    "uuid": "0c9a7f4e-0000-4000-8000-000000000001",
    "status": "offline",
    "last_seen": NOW - 200,
    "version": "0.1.0",
    "labels": {"site": "berlin"},
}


@pytest.fixture(autouse=True)
def fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyport.admin.answers.time.time", lambda: NOW)


def test_status(fake_auth: FakeAuth, tctl: At) -> None:
    fake_auth.says(
        "GET",
        "/v1/status",
        {
            "cluster": "farm.example",
            "version": "0.1.0",
            "ca_pins": [PIN],
            "nodes": {"online": 2, "offline": 0, "pending": 1, "quarantined": 0},
            "users": 3,
            "policy_serial": 7,
            "proxies": [{"name": "port", "online": True, "addresses": ["port.example.com:443"]}],
        },
    )
    ran = tctl(fake_auth.data_dir)("status")
    assert ran.status == 0
    assert ran.out.splitlines() == [
        "cluster:  farm.example",
        "version:  0.1.0",
        f"CA pins:  {PIN}",
        "nodes:    2 online, 0 offline, 1 pending",
        "users:    3",
        "policy:   serial 7",
        "proxy:    port online at port.example.com:443",
    ]


def test_nodes_line_up_and_say_when_they_were_seen(fake_auth: FakeAuth, tctl: At) -> None:
    online = {**NODE, "name": "pi", "status": "online", "labels": {}}
    fake_auth.says("GET", "/v1/nodes?selector=site%3Dberlin&search=attic", {"nodes": [NODE, online]})
    ran = tctl(fake_auth.data_dir)("nodes", "ls", "site=berlin", "--search", "attic")
    assert ran.out.splitlines() == [
        "NAME        STATUS   LAST SEEN      VERSION  LABELS",
        "greenhouse  offline  3 minutes ago  0.1.0    site=berlin",
        "pi          online   now            0.1.0",
    ]


def test_what_a_node_costs_is_told_once_it_says_something(fake_auth: FakeAuth, tctl: At) -> None:
    old = {**NODE, "traffic": {"bytes": 1, "since": NOW - 86400, "a_day": 351_000}, "peer": "192.0.2.7:1234"}
    new = {**NODE, "name": "pi", "traffic": {"bytes": 4239, "since": NOW - 60, "a_day": 6_104_160}}
    fake_auth.says("GET", "/v1/nodes", {"nodes": [old, new]})
    assert tctl(fake_auth.data_dir)("nodes", "ls", "-v").out.splitlines() == [
        "NAME        STATUS   TUNNELS  FROM       ADDRESSES  TRAFFIC    CLOCK  UUID",
        "greenhouse  offline  0        192.0.2.7  -          351kB/day  right  0c9a7f4e-0000-4000-8000-000000000001",
        "pi          offline  0        -          -          -          right  0c9a7f4e-0000-4000-8000-000000000001",
    ]


def test_one_node_in_full(fake_auth: FakeAuth, tctl: At) -> None:
    traffic = {"today": 620_000, "month": 9_100_000, "budget": 500_000, "over": True}
    node = {
        **NODE,
        "declared_labels": {"os": "\x1b[2J"},
        "traffic": traffic,
        "skew": 0,
        "proxies": ["x"],
        "created": NOW,
    }
    answer = {
        "node": node,
        "days": [{"day": f"2026-01-{day:02}", "bytes": day * 1000} for day in range(1, 31)],
        "months": [{"month": "2025-12", "bytes": 5_000_000}],
    }
    fake_auth.says("GET", "/v1/nodes/greenhouse", answer)
    lines = tctl(fake_auth.data_dir)("nodes", "show", "greenhouse").out.splitlines()
    assert "traffic         620kB today, over 500kB, 9100kB this month" in lines
    assert "budget          500kB a day" in lines
    assert ["2025-12", "5000kB"] in [line.split() for line in lines]
    assert ["2026-01-30", "30.0kB"] in [line.split() for line in lines]
    assert "2026-01-02" not in " ".join(lines)
    assert not any("\x1b" in line for line in lines)
    fake_auth.says("GET", "/v1/nodes/greenhouse", {"node": NODE, "days": [], "months": []})
    assert "traffic         -" in tctl(fake_auth.data_dir)("nodes", "show", "greenhouse").out.splitlines()


def test_a_copy_stands_below_its_node(fake_auth: FakeAuth, tctl: At) -> None:
    copy = {"id": "3f9a01bc", "online": False, "peer": "192.0.2.7:4242", "found": NODE["last_seen"], "split": False}
    copies = [copy, {**copy, "id": "77aa01bc", "online": True, "peer": "\x1b[2J", "split": True}]
    fake_auth.says("GET", "/v1/nodes", {"nodes": [{**NODE, "copies": copies}]})
    _, node, first, second = tctl(fake_auth.data_dir)("nodes", "ls").out.splitlines()
    assert node.startswith("greenhouse ")
    assert first.split()[:3] == ["copy", "3f9a01bc", "quarantined"]
    assert first.endswith("from 192.0.2.7, found 3 minutes ago")
    assert second.split()[:4] == ["copy", "77aa01bc", "leaving", "now"]
    assert "\x1b" not in second


def test_a_split_of_known_copies_needs_no_lines(fake_auth: FakeAuth, tctl: At) -> None:
    copies = [{"id": "3f9a01bc", "peer": "192.0.2.7:4242", "found": 0}]
    fake_auth.says("POST", "/v1/nodes/greenhouse/split", {"uuid": "x", "name": "greenhouse", "copies": copies})
    ran = tctl(fake_auth.data_dir)("nodes", "split", "greenhouse", "--name", "shed", "--labels", "site=berlin")
    assert ran.out == "greenhouse stays; one device becomes a node of its own at the next contact\n"
    assert fake_auth.asked[-1][2] == {"name": "shed", "labels": {"site": "berlin"}}
    tctl(fake_auth.data_dir)("nodes", "split", "greenhouse", "--yes")
    assert fake_auth.asked[-1][2] == {"quarantine": True}


def test_a_listing_as_json_is_the_answer_itself(fake_auth: FakeAuth, tctl: At) -> None:
    fake_auth.says("GET", "/v1/nodes", {"nodes": [NODE]})
    assert tctl(fake_auth.data_dir)("nodes", "ls", "--format", "json").json == {"nodes": [NODE]}


def test_names_are_hostile_text(fake_auth: FakeAuth, tctl: At) -> None:
    fake_auth.says("GET", "/v1/nodes", {"nodes": [{**NODE, "name": "\x1b]0;owned\x07", "labels": {"a": "\u202e"}}]})
    out = tctl(fake_auth.data_dir)("nodes", "ls").out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_a_token_comes_with_the_line_to_type(fake_auth: FakeAuth, tctl: At) -> None:
    fake_auth.says(
        "POST",
        "/v1/tokens",
        {"id": "abcdefghij", "token": TOKEN, "uses": 1, "expires": NOW + 1799, "ca_pins": [PIN]},
    )
    run = tctl(fake_auth.data_dir)
    ran = run(
        "tokens", "add", "--type", "node", "--ttl", "1h", "--labels", "site=berlin,rack=2", "--cidr", "10.0.0.0/8"
    )
    start = f"tinyport start --roles=node --server port.example.com:443 --token - --ca-pin {PIN}"
    # The token is nobody's argument: printf is part of the shell.
    line = f"printf '%s\\n' {TOKEN} | {start}"
    assert ran.out.splitlines() == [
        "a token for one node; it ends in 30 minutes. On the machine that joins:",
        f"  {line}",
    ]
    assert fake_auth.asked[-2][:2] == ("POST", "/v1/tokens")
    assert fake_auth.asked[-2][2] == {
        "type": "node",
        "ttl": 3600,
        "labels": {"site": "berlin", "rack": "2"},
        "cidr": ["10.0.0.0/8"],
    }
    found = run("tokens", "add", "--format", "json").json
    assert (found["token"], found["line"]) == (TOKEN, line)
    # A proxy is told where auth is; whoever asks from elsewhere puts that in.
    assert "--roles=proxy --server AUTH:3025 --token" in run("tokens", "add", "--type", "proxy").out


def test_a_token_says_what_it_is_for(fake_auth: FakeAuth, tctl: At) -> None:
    answer = {"id": "a", "token": TOKEN, "uses": 3, "expires": NOW + 1799, "ca_pins": [PIN]}
    fake_auth.says("POST", "/v1/tokens", answer)
    run = tctl(fake_auth.data_dir)
    assert run("tokens", "add", "--pending").out.startswith("a token for 3 nodes, which wait for tctl nodes accept; it")
    said = run("tokens", "add", "--replaces", "shed").out
    assert said.startswith("a token for a device that takes the place of shed, once that is offline; it ends")


def test_a_line_that_no_other_machine_can_use_is_no_surprise(
    fake_auth: FakeAuth, tctl: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_auth.says("POST", "/v1/tokens", {"id": "a", "token": TOKEN, "uses": 1, "expires": NOW, "ca_pins": [PIN]})
    run = tctl(fake_auth.data_dir)
    for server, warned in (("127.0.0.1:3080", True), ("[::1]:3080", True), ("127.example.com:443", False)):
        for module in (tctl_nodes, tctl_tokens):
            monkeypatch.setattr(module, "public_proxy", lambda _, server=server: server)
        for words in (("nodes", "add"), ("tokens", "add")):
            assert (f"{server} is this machine alone" in run(*words).err) is warned
            assert run(*words, "--format", "json").err == ""


def test_nodes_add_prints_one_line_to_paste(fake_auth: FakeAuth, tctl: At) -> None:
    fake_auth.says("POST", "/v1/tokens", {"id": "a", "token": TOKEN, "uses": 1, "expires": NOW, "ca_pins": [PIN]})
    out = tctl(fake_auth.data_dir)("nodes", "add").out
    assert out.count("\n") == 1
    assert out.startswith(f" printf '%s\\n' {TOKEN} | sudo sh -c 'mkdir -p ")
    assert f"--server port.example.com:443 --token - --ca-pin {PIN}" in out


def test_an_answer_without_a_pin_makes_no_line(fake_auth: FakeAuth, tctl: At) -> None:
    fake_auth.says("POST", "/v1/tokens", {"id": "a", "token": TOKEN, "ca_pins": ["$(reboot)"]})
    ran = tctl(fake_auth.data_dir)("tokens", "add")
    assert (ran.status, ran.out) == (1, "")
    assert "has no CA pin" in ran.err


def test_an_invitation_has_a_link_and_a_line(fake_auth: FakeAuth, tctl: At) -> None:
    url = f"https://port.example.com:443/invite#{TOKEN}"
    fake_auth.says("POST", "/v1/users", {"user": "alice", "invitation": TOKEN, "expires": NOW + 3600, "urls": [url]})
    ran = tctl(fake_auth.data_dir)("users", "add", "alice", "--logins", "pi,root", "--roles", "access", "--ttl", "1h")
    assert ran.out.splitlines() == [
        "user alice was added. The invitation is good once, and ends in 1 hour:",
        f"  {url}",
        "or, in a terminal:",
        f"  tsh signup '{url}' --ca-pin {PIN}",
    ]
    assert fake_auth.asked[0] == (
        "POST",
        "/v1/users",
        {"name": "alice", "roles": ["access"], "logins": ["pi", "root"], "ttl": 3600},
    )


def test_what_is_typed_stays_one_piece_of_the_path(fake_auth: FakeAuth, tctl: At) -> None:
    run = tctl(fake_auth.data_dir)
    for words in (
        ("users", "rm", "../nodes/x"),
        ("tokens", "rm", "../x"),
        ("unlock", "../x"),
        ("nodes", "rm", "a/b?c"),
    ):
        assert run(*words).status == 5
    assert [path for _, path, _ in fake_auth.asked] == [
        "/v1/users/..%2Fnodes%2Fx",
        "/v1/tokens/..%2Fx",
        "/v1/locks/..%2Fx",
        "/v1/nodes/a%2Fb%3Fc",
    ]


def test_labels_are_set_and_taken_away(fake_auth: FakeAuth, tctl: At) -> None:
    fake_auth.says("PATCH", "/v1/nodes/pi", {"node": {**NODE, "labels": {"a": "b"}}})
    ran = tctl(fake_auth.data_dir)("nodes", "label", "pi", "a=b", "old=")
    assert ran.out == "labels of greenhouse: a=b\n"
    assert fake_auth.asked == [("PATCH", "/v1/nodes/pi", {"labels": {"a": "b", "old": None}})]


def test_a_refusal_has_its_hint_and_status(fake_auth: FakeAuth, tctl: At) -> None:
    refusals: list[tuple[int, str, int]] = [(403, "denied", 4), (401, "expired", 3), (404, "not_found", 5)]
    run = tctl(fake_auth.data_dir)
    for status, code, expected in refusals:
        error = {"code": code, "message": "not you", "hint": "ask somebody"}
        fake_auth.says("GET", "/v1/users", {"error": error}, status)
        ran = run("users", "ls")
        assert ran.status == expected
        assert ran.err == "tctl: error: not you\ntctl: hint: ask somebody\n"


def test_resources_go_round(fake_auth: FakeAuth, tctl: At, tmp_path: Path) -> None:
    role = {"kind": "role", "name": "ops", "allow": {"logins": ["pi"]}}
    fake_auth.says("GET", "/v1/resources/role/ops", {"resource": role})
    fake_auth.says("PUT", "/v1/resources/role/ops", {"resource": role})
    run = tctl(fake_auth.data_dir)
    path = tmp_path / "role"
    for form in ("text", "json"):
        path.write_text(run("get", "role/ops", "--format", form).out)
        assert run("create", "-f", str(path)).out == "role ops was stored\n"
        assert fake_auth.asked[-1] == ("PUT", "/v1/resources/role/ops", {"name": "ops", "allow": {"logins": ["pi"]}})


def test_several_documents_of_toml(fake_auth: FakeAuth, tctl: At, tmp_path: Path) -> None:
    run = tctl(fake_auth.data_dir)
    fake_auth.says("GET", "/v1/resources/lock", {"resources": []})
    none = run("get", "lock")
    assert (none.status, none.out, none.err) == (0, "", "there is no lock\n")
    for name in ("a", "b"):
        fake_auth.says("PUT", f"/v1/resources/role/{name}?create=1", {"resource": {"name": name}})
    path = tmp_path / "roles.toml"
    path.write_text('kind = "role"\nname = "a"\n---\n\n--- \nkind = "role"\nname = "b"\n')
    assert run("create", str(path)).out == "role a was created\nrole b was created\n"
    # Within a text it is text, and an error names the line of the file.
    path.write_text('kind = "role"\nname = "a"\ntitle = """\n---\n"""\n')
    assert run("create", str(path)).out == "role a was created\n"
    assert fake_auth.asked[-1][2]["title"] == "---\n"
    path.write_text('kind = "role"\nname = "a"\n---\nkind = role\n')
    assert "line 4" in run("create", str(path)).err


def test_resources_from_toml_and_lists(fake_auth: FakeAuth, tctl: At, tmp_path: Path) -> None:
    run = tctl(fake_auth.data_dir)
    fake_auth.says("PUT", "/v1/resources/role/ops?create=1", {"resource": {"name": "ops"}})
    path = tmp_path / "role.toml"
    path.write_text('kind = "role"\nname = "ops"\n[allow]\nlogins = ["pi"]\n')
    assert run("create", str(path)).out == "role ops was created\n"
    path.write_text('[{"kind": "role", "name": "ops"}, {"kind": "role", "name": "ops"}]')
    assert run("create", str(path)).out == "role ops was created\n" * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"kind": "role", "name"', "is not JSON"),
        ('{"name": "x"}', 'needs kind = "..."'),
        ('kind = "role"', 'needs name = "..."'),
        ('kind = "planet"\nname = "x"', "known are user, role"),
        ("kind = = 1", "role.file"),
        ("[1, 2]", "needs kind"),
    ],
)
def test_files_that_are_no_resources(fake_auth: FakeAuth, tctl: At, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "role.file"
    path.write_text(text)
    ran = tctl(fake_auth.data_dir)("create", str(path))
    assert ran.status == 1
    assert said in ran.err
    assert fake_auth.asked == []


def test_events_as_lines(fake_auth: FakeAuth, tctl: At) -> None:
    event: dict[str, Any] = {
        "id": 4,
        "event": "session.start",
        "code": "T2000I",
        "time": NOW,
        "user": "alice",
        "node": "pi",
        "login": "root",
        "command": "rm -rf \x1b[2J",
        "logins": ["a", "b"],
        "expires": NOW,
    }
    fake_auth.says("GET", "/v1/audit?user=alice&type=session.start&limit=200", {"events": [event], "last": 4})
    ran = tctl(fake_auth.data_dir)("audit", "--user", "alice", "--type", "T2000I")
    assert ran.out == (
        "2027-01-15 08:00:00 UTC  T2000I  session.start      alice        pi               login=root "
        'command="rm -rf \\\\x1b[2J" logins=a,b expires="2027-01-15 08:00:00 UTC"\n'
    )


def test_following_goes_on_after_what_was_shown(fake_auth: FakeAuth, tctl: At) -> None:
    first = {"id": 4, "event": "user.login", "code": "T1000I", "time": NOW, "user": "alice"}
    second = {**first, "id": 5, "user": "bob"}
    fake_auth.says("GET", "/v1/audit?limit=10", {"events": [first], "last": 4})
    fake_auth.says("GET", "/v1/audit?after=4&follow=1", [{"keepalive": 1}, second])
    ran = tctl(fake_auth.data_dir)("audit", "-f", "--format", "json")
    assert [json.loads(line)["id"] for line in ran.out.splitlines()] == [4, 5]


def test_an_unknown_event_is_wrong_usage(fake_auth: FakeAuth, tctl: At) -> None:
    ran = tctl(fake_auth.data_dir)("audit", "--type", "sesion.start")
    assert ran.status == 2
    assert "did you mean session.start?" in ran.err


def test_locks(fake_auth: FakeAuth, tctl: At) -> None:
    run = tctl(fake_auth.data_dir)
    fake_auth.says("POST", "/v1/locks", {"id": "4f", "target": {"user": "alice"}})
    assert (
        run("lock", "--user", "alice", "--message", "lost", "--ttl", "2h").out == "locked; tctl unlock 4f removes it\n"
    )
    assert fake_auth.asked[-1][2] == {"target": {"user": "alice"}, "ttl": 7200, "message": "lost"}
    fake_auth.says("GET", "/v1/locks", {"locks": [{"id": "4f", "target": {"user": "alice"}, "expires": None}]})
    assert run("lock").out.splitlines()[1].split() == ["4f", "user", "alice", "when", "removed"]


def test_explain(fake_auth: FakeAuth, tctl: At) -> None:
    fake_auth.says("POST", "/v1/explain", {"verdict": "denied", "steps": ["role x says nothing"]})
    run = tctl(fake_auth.data_dir)
    assert run("explain", "alice", "pi@pi").out == "denied: alice as pi@pi\n  role x says nothing\n"
    assert run("explain", "alice", "pi").status == 2


def test_an_answer_that_is_none_is_said_so(fake_auth: FakeAuth, tctl: At) -> None:
    fake_auth.says("GET", "/v1/users", {"users": "all of them"})
    ran = tctl(fake_auth.data_dir)("users", "ls")
    assert ran.status == 1
    assert "auth's answer has no users" in ran.err


def test_no_auth_and_no_login(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 3
    assert "no auth server on this machine, and no login" in capsys.readouterr().err


def test_an_auth_that_is_down(tmp_path: Path, tctl: At) -> None:
    (tmp_path / "tinyport.toml").write_text(f'[tinyport]\ndata_dir = "{tmp_path}"\n')
    ran = tctl(tmp_path)("status")
    assert ran.status == 1
    assert "auth is not running here" in ran.err


def test_secrets_that_cannot_be_read_do_not_matter_to_tctl(fake_auth: FakeAuth, tctl: At) -> None:
    path = fake_auth.data_dir / "tinyport.toml"
    path.write_text(f'[tinyport]\ndata_dir = "{fake_auth.data_dir}"\ntoken = {{ path = "/gone" }}\n')
    assert tctl(fake_auth.data_dir)("status").status == 0


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    def walk(words: list[str], parser: Any) -> None:
        assert main([*words, "--help"]) == 0
        assert "example" in capsys.readouterr().out, words
        for name, command in parser.commands().items():
            walk([*words, name], command)

    walk([], build_parser())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "a moment"), (1, "1 second"), (59, "1 minute"), (200, "3 minutes"), (1799, "30 minutes"), (5400, "1 hour")],
)
def test_spans(seconds: float, words: str) -> None:
    assert moments.span(seconds) == words


def test_moments() -> None:
    assert moments.ago(NOW - 200, NOW) == "3 minutes ago"
    assert moments.ago(NOW + 2 * 86400, NOW) == "in 2 days"
    for nothing in (None, 0, "x", True):
        assert moments.ago(nothing, NOW) == "never"
    assert moments.when("2h", NOW) == NOW - 7200
    assert moments.when("2026-01-31T12:00", NOW) - moments.when("2026-01-31", NOW) == 12 * 3600
