"""What people type to tsh: targets, places, forwardings, escapes, options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.client.escape import DISCONNECT, EscapeReader
from tinyport.client.files import plain_name
from tinyport.client.forward import End, Forward, parse_forward
from tinyport.client.main import main
from tinyport.client.scp import Place, parse_place
from tinyport.client.target import split_target, strip_port
from tinyport.core.errors import OperatorError, PeerError
from tinyport.host.console import USAGE


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("file", Place(None, None, "file")),
        ("./a:b", Place(None, None, "./a:b")),
        ("/a:b", Place(None, None, "/a:b")),
        ("pi@node:x", Place("pi", "node", "x")),
        ("node:", Place(None, "node", ".")),
        ("node:~/x", Place(None, "node", "x")),
        ("pi@site=berlin:/etc", Place("pi", "site=berlin", "/etc")),
    ],
)
def test_places(text: str, place: Place) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0b"])
def test_a_node_cannot_name_files_elsewhere(name: str) -> None:
    with pytest.raises(PeerError):
        plain_name(name)


def test_targets() -> None:
    assert split_target("pi@greenhouse") == ("pi", "greenhouse")
    assert split_target("greenhouse") == (None, "greenhouse")
    assert split_target("a@b@greenhouse") == ("a@b", "greenhouse")
    assert strip_port("pi@greenhouse:22") == "pi@greenhouse"
    for bad in ("", "@", "pi@", "@node"):
        with pytest.raises(OperatorError):
            split_target(bad)


def test_forwardings() -> None:
    assert parse_forward("L", "8080:localhost:80") == Forward("L", End("localhost", 8080), End("localhost", 80))
    assert parse_forward("D", "1080").target is None
    for bad in ("", "x", "1:2", "1:h:x", "99999:h:80", "8080:h:"):
        with pytest.raises(OperatorError):
            parse_forward("L", bad)


def test_an_escape_is_heard_after_a_newline_alone() -> None:
    reader = EscapeReader()
    assert reader.feed(b"a~.\r~~x\r~.never") == (b"a~.\r~x\r", [DISCONNECT])


@given(st.lists(st.binary(max_size=8)))
def test_escapes_may_be_cut_anywhere(pieces: list[bytes]) -> None:
    whole, cut = EscapeReader(), EscapeReader()
    sent, commands = b"", []
    for piece in pieces:
        out, heard = cut.feed(piece)
        sent += out
        commands += heard
        if DISCONNECT in heard:
            break
    assert whole.feed(b"".join(pieces)) == (sent, commands)


@pytest.mark.parametrize(
    "words",
    [["nonsense"], ["ssh"], ["ls", "--format", "xml"], ["scp", "a", "b"], ["scp", "a"], ["ls", "--form", "json"]],
)
def test_wrong_usage_ends_with_2_and_a_hint(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == USAGE
    said = capsys.readouterr().err
    assert said.startswith("tsh: error: ")
    assert "Traceback" not in said


@pytest.mark.parametrize("words", [["--help"], ["ssh", "--help"], ["scp", "--help"], ["proxy", "ssh", "--help"]])
def test_help_has_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "example" in capsys.readouterr().out


def test_no_login_is_said_with_its_status(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TINYPORT_HOME", f"{tmp_path}/none")
    assert main(["ls"]) == 3
    assert "tsh login" in capsys.readouterr().err
