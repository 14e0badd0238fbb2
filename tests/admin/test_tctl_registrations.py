"""``tctl nodes import``: what a list of devices may look like, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.admin.conftest import FakeAuth, Run
from tinyport.admin.tctl_registrations import BATCH, parse_lines
from tinyport.core.errors import OperatorError

At = Callable[[Path], Run]


def test_lines() -> None:
    lines = [
        "# the Berlin batch",
        "serial=1000ABCD name=greenhouse site=berlin rack=3",
        "",
        'ssh_key="ssh-ed25519 AAAAC3 pi@shed" name=shed  # by its key',
        '{"serial": "2000abcd", "labels": {"site": "paris"}}',
    ]
    assert parse_lines(lines) == [
        (2, {"serial": "1000ABCD", "name": "greenhouse", "labels": {"site": "berlin", "rack": "3"}}),
        (4, {"ssh_key": "ssh-ed25519 AAAAC3 pi@shed", "name": "shed"}),
        (5, {"serial": "2000abcd", "labels": {"site": "paris"}}),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("name=x", "either a serial or an ssh_key"),
        ("serial=1 serial=2", "serial is given twice"),
        ("1000abcd", "is not key=value"),
        ('serial="1000', "No closing quotation"),
        ("{", "line 2: "),
        ("[1]", "is not key=value"),
        ("SERIAL=x serial=FIRST", "the same device as line 1"),
        ("x" * 20_000, "at most"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(line: str, said: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_lines(["serial=first", line])
    assert caught.value.message.startswith("line 2: ")
    assert said in caught.value.message


def test_a_long_list_goes_in_pieces(fake_auth: FakeAuth, tctl: At, tmp_path: Path) -> None:
    fake_auth.says("POST", "/v1/registrations", {"added": BATCH - 1, "joined": 1})
    file = tmp_path / "fleet.txt"
    file.write_text("".join(f"serial=1000{number:04x}\n" for number in range(2 * BATCH)))
    ran = tctl(fake_auth.data_dir)("nodes", "import", str(file))
    assert ran.out == f"{2 * BATCH - 2} devices are registered; 2 have joined before, and are left as they are\n"
    assert [len(body["devices"]) for _, _, body in fake_auth.asked] == [BATCH, BATCH]


def test_the_line_that_auth_refuses(fake_auth: FakeAuth, tctl: At, tmp_path: Path) -> None:
    error = {"code": "bad_request", "message": "name: bad", "device": 1}
    fake_auth.says("POST", "/v1/registrations", {"error": error}, 400)
    file = tmp_path / "fleet.txt"
    file.write_text("# one\nserial=1000abcd\n\nserial=2000abcd name=Bad\n")
    ran = tctl(fake_auth.data_dir)("nodes", "import", str(file))
    assert ran.status != 0
    assert "line 4: name: bad" in ran.err
    assert "no such file" in tctl(fake_auth.data_dir)("nodes", "import", str(tmp_path / "none")).err.lower()


def test_registrations_are_forgotten_by_label(fake_auth: FakeAuth, tctl: At) -> None:
    found: list[dict[str, object]] = [
        {"id": f"{number:016x}", "by": "serial", "value": f"{number}", "name": "", "labels": {"site": site}}
        for number, site in enumerate(("berlin", "paris", "berlin"))
    ]
    fake_auth.says("GET", "/v1/registrations", {"registrations": found})
    for one in found:
        fake_auth.says("DELETE", f"/v1/registrations/{one['id']}", {"id": one["id"]})
    run = tctl(fake_auth.data_dir)
    assert len(run("nodes", "registered", "site=berlin", "--format", "json").json["registrations"]) == 2
    asked = run("nodes", "unregister", "site=berlin")
    assert (asked.status, "2 registrations are selected, and nothing was done" in asked.err) == (2, True)
    assert run("nodes", "unregister", "site=rome", "--yes").status == 1
    assert run("nodes", "unregister", "site=berlin", str(found[1]["id"])).status == 2
    assert "DELETE" not in [method for method, _, _ in fake_auth.asked]
    assert run("nodes", "unregister", "site=berlin", "--yes").out == "2 registrations are gone\n"
    assert run("nodes", "unregister", str(found[1]["id"])).out == f"registration {found[1]['id']} is gone\n"
    found[1]["node_uuid"], found[1]["node_name"] = "x", "pi"
    found[2]["node_uuid"], found[2]["node_name"] = "y", None
    fake_auth.says("GET", "/v1/registrations", {"registrations": found})
    states = [line.split()[4] for line in run("nodes", "registered").out.splitlines()[1:]]
    assert states == ["waiting", "joined", "removed"]
    gone = run("nodes", "unregister", str(found[1]["id"]), "nope")
    assert (gone.status, "the 1 before it are gone" in gone.err) == (5, True)
