"""Where sshd listens, by what systemd and the kernel show."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from tinyport.admin.sshd_addresses import Listening, asked_at, combined, configured, where
from tinyport.core.errors import OperatorError


def shown(**properties: str):  # type: ignore[no-untyped-def]
    """A ``Read`` that knows what systemctl shows, and an ``sshd -T``."""

    def read(words: Sequence[str]) -> str:
        if words[0] == "sshd":
            return properties.get("sshd", "")
        (name,) = (word.partition("=")[2] for word in words if word.startswith("--property="))
        return properties.get(name, "") + "\n"

    return read


@pytest.mark.parametrize(
    ("listen", "only", "expected"),
    [
        ("[::]:22 (Stream)", "default", Listening(("22",))),
        ("[::]:22 (Stream)", "ipv6-only", Listening(("[::]:22",), only_ipv6=True)),
        ("0.0.0.0:22 (Stream)\n[::]:22 (Stream)", "ipv6-only", Listening(("22",))),
        ("0.0.0.0:2222 (Stream)", "both", Listening(("0.0.0.0:2222",))),
        ("127.0.0.1:2222 (Stream)\n[2001:db8::1]:22 (Stream)", "", Listening(("[2001:db8::1]:22", "127.0.0.1:2222"))),
        (
            "/run/ssh (Stream)\nvsock:4:22 (Stream)\n[::]:9 (Datagram)\n192.0.2.1:22 (Stream)",
            "",
            Listening(("192.0.2.1:22",)),
        ),
    ],
)
def test_a_socket_of_systemds(listen: str, only: str, expected: Listening) -> None:
    assert where(["ssh.socket"], shown(Listen=listen, BindIPv6Only=only)) == expected


def test_a_socket_for_one_device_is_not_opened_for_all() -> None:
    with pytest.raises(OperatorError, match="bound to the device eth1"):
        where(["ssh.socket"], shown(Listen="[::]:22 (Stream)", BindToDevice="eth1"))


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_process_listens_where_the_kernel_says(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        found = where(["ssh.service"], shown(MainPID=str(os.getpid()))).streams
        assert (f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}") in found
        # Who is connected to it listens nowhere.
        with socket.create_connection((host, port)) as client:
            assert not any(stream.endswith(f":{client.getsockname()[1]}") for stream in found)


def test_where_it_would_listen_when_nothing_runs(tmp_path: Path) -> None:
    text = "port 22\naddressfamily any\nlistenaddress 0.0.0.0:2222\nlistenaddress [::]:2222\n"
    assert where([], shown(sshd=text)) == Listening(("2222",))
    assert where([], shown()) == Listening(("22",))
    # A process that has gone meanwhile.
    assert where(["ssh.service"], shown(MainPID="4242", sshd=text), tmp_path) == Listening(("2222",))
    assert where(["ssh.service"], shown(MainPID="0")) == Listening(("22",))
    assert configured("listenaddress $(reboot):22\nlistenaddress\n") == {"22"}


def test_one_line_says_for_all_sockets_whether_they_are_for_ipv4() -> None:
    assert combined(["0.0.0.0:22", "[::]:22", "[::]:23"]) == Listening(
        ("0.0.0.0:22", "[::]:22", "[::]:23"), only_ipv6=True
    )


def test_where_to_ask() -> None:
    assert [asked_at(stream) for stream in ("22", "0.0.0.0:22", "[::]:22", "[2001:db8::1]:22", "192.0.2.1:5")] == [
        ("127.0.0.1", 22),
        ("127.0.0.1", 22),
        ("::1", 22),
        ("2001:db8::1", 22),
        ("192.0.2.1", 5),
    ]
