"""What this machine is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core.config import Config, General, NodeConfig
from tinyport.core.errors import OperatorError
from tinyport.core.names import check_node
from tinyport.host import machine


def named(template: str) -> str:
    return machine.nodename(Config(tinyport=General(nodename=template)))


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Greenhouse_7.local", "greenhouse-7.local"),
        ("-pi-.", "pi"),
        ("", "node"),
        ("0c9a7f4e-0000-4000-8000-000000000001", "node"),
        ("x" * 80, "x" * 63),
        ("größe", "gr--e"),
    ],
)
def test_a_host_name_is_made_to_fit(host: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert machine.nodename(Config()) == name


@given(st.text(max_size=100))
def test_any_host_name_becomes_a_name(host: str) -> None:
    assert check_node(machine._from_hostname(host))


def test_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "serial").write_bytes(b"10000000ABCDEF01\0")
    (tmp_path / "eth0").mkdir()
    (tmp_path / "eth0" / "address").write_text("DC:A6:32:00:00:01\n")
    (tmp_path / "lo").mkdir()
    (tmp_path / "lo" / "address").write_text("00:00:00:00:00:00\n")
    monkeypatch.setattr(machine, "_SERIAL_FILES", (str(tmp_path / "gone"), str(tmp_path / "serial")))
    monkeypatch.setattr(machine, "_INTERFACES", tmp_path)
    assert named("pi-{serial}") == "pi-10000000abcdef01"
    assert named("{mac}.shed") == "dca632000001.shed"
    assert named("plain") == "plain"


@pytest.mark.parametrize("text", [b"0000000000000000\0", b"\0", b"\xff\xfe\0", b'$(reboot)"\n', b"../../etc\0", b""])
def test_a_board_without_a_number_of_its_own_is_the_machine_id(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "serial").write_bytes(text)
    (tmp_path / "machine-id").write_text("0123456789abcdef0000111122223333\n")
    monkeypatch.setattr(machine, "_SERIAL_FILES", (str(tmp_path / "serial"), str(tmp_path / "machine-id")))
    assert machine.serial() == "0000111122223333"


def test_a_machine_without_what_the_template_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_SERIAL_FILES", ())
    monkeypatch.setattr(machine, "_INTERFACES", tmp_path)
    assert machine.serial() == ""
    with pytest.raises(OperatorError, match="no serial number"):
        named("pi-{serial}")
    with pytest.raises(OperatorError, match="no network interface"):
        named("{mac}")


def test_listening_everywhere_is_dialled_here() -> None:
    assert machine.dialable(("0.0.0.0", 1)) == ("127.0.0.1", 1)
    assert machine.dialable(("::", 1)) == ("::1", 1)
    assert machine.dialable(("10.0.0.7", 1)) == ("10.0.0.7", 1)


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        (
            "0::/a/b\n",
            {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "50000000\n"},
            50_000_000,
        ),
        ("4:cpu,memory:/x\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "40000000\n"}, 40_000_000),
        ("4:memory:/host/path\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "30000000\n"}, 30_000_000),
        ("0::/\n", {}, None),
        ("nonsense", {"sys/fs/cgroup/memory.max": "0\n"}, None),
    ],
)
def test_a_control_group_limits_the_memory(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: int | None
) -> None:
    for name, content in {"proc/self/cgroup": cgroup, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    whole = machine.memory_size(tmp_path / "nowhere")
    assert whole > 50_000_000
    assert machine.memory_size(tmp_path) == (whole if expected is None else expected)


def test_real_interfaces_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, address in (
        ("br-lan", "02:00:00:00:00:01"),
        ("eth0", "dc:a6:32:00:00:01"),
        ("docker0", "02:42:00:00:00:01"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "address").write_text(f"{address}\n")
    (tmp_path / "eth0" / "device").mkdir()
    monkeypatch.setattr(machine, "_INTERFACES", tmp_path)
    assert named("{mac}") == "dca632000001"


def test_labels_are_templates_and_what_cannot_be_filled_in_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "serial").write_text("abcd1234")
    monkeypatch.setattr(machine, "_SERIAL_FILES", (str(tmp_path / "serial"),))
    monkeypatch.setattr(machine, "_INTERFACES", tmp_path)
    node = NodeConfig(labels={"model": "pi4", "serial": "sn {serial}", "mac": "{mac}", "brace": "{other}"})
    assert machine.labels(Config(node=node)) == {"model": "pi4", "serial": "sn abcd1234", "brace": "{other}"}
