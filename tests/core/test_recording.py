"""Recordings: frames and asciicast, whatever is in them and whatever became of them on the way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyport.core import recording_frames as f
from tinyport.core.asciicast import Writer, event_line, header_line, header_of, parse_event, parse_header, parse_size
from tinyport.core.errors import PeerError

HEAD = f.head({"user": "alice", "login": "pi", "node": "barn", "columns": 80, "rows": 24, "time": 1.9e9})

pieces = st.lists(st.binary(min_size=1, max_size=40), max_size=20)


def events(made: list[str]) -> list[list[object]]:
    return [json.loads(line) for line in made]


def shown(made: list[str]) -> str:
    return "".join(str(event[2]) for event in events(made) if event[1] == "o")


@given(found=pieces, lost=st.sets(st.integers(0, 19)), cut=st.integers(0, 5000))
def test_what_is_lost_is_counted_and_the_rest_is_shown(found: list[bytes], lost: set[int], cut: int) -> None:
    position, data, kept, missing = 0, HEAD, [b""], 0
    for number, piece in enumerate(found):
        if number in lost:
            missing += len(piece)
            kept.append(b"")
        else:
            data += f.frame(f.OUTPUT, number, position, piece)
            kept[-1] += piece
        position += len(piece)
    data += f.frame(f.END, len(found), position)
    writer = Writer()
    made = writer.lines(f.frames(data))
    assert (writer.progress.lost, writer.progress.shown) == (missing, position - missing)
    assert writer.progress.ended
    if not missing:
        # Wherever reads have cut it: as if it had come in one.
        assert shown(made) == b"".join(found).decode("utf-8", "replace")
    # Cut anywhere, what is whole is whole frames, and the rest goes on from there.
    at = min(cut, len(data))
    length = f.whole(data[:at])
    assert length <= at
    again = Writer()
    assert again.lines(f.frames(data[:length])) + again.lines(f.frames(data[length:])) == made


@given(data=st.binary(max_size=200))
def test_any_bytes_are_frames_or_a_peer_error(data: bytes) -> None:
    for work in (lambda: f.whole(data), lambda: Writer().lines(f.frames(data)), lambda: f.parse_head(data)):
        try:
            work()
        except PeerError:
            continue


@given(kind=st.integers(0, 6), milliseconds=st.integers(0, 2**64 - 1), position=st.integers(0, 2**64 - 1), more=pieces)
def test_any_frame_is_one_or_a_peer_error(kind: int, milliseconds: int, position: int, more: list[bytes]) -> None:
    data = HEAD + b"".join(f.frame(kind, milliseconds, position, piece) for piece in more)
    try:
        made = Writer().lines(f.frames(data))
    except PeerError:
        return
    for line in made:
        parse_event(line)


def test_a_frame_goes_into_a_pipe_whole() -> None:
    assert len(f.frame(f.OUTPUT, 0, 0, b"x" * f.MAX_DATA)) == 4096
    with pytest.raises(ValueError):
        f.frame(f.OUTPUT, 0, 0, b"x" * (f.MAX_DATA + 1))
    long = {"user": "\U0001f600" * 300, "command": "\U0001f600" * 5000, "login": "x" * 300}
    assert len(f.head(long)) <= 4096


def test_a_gap_is_a_line_and_a_marker_and_half_a_character_is_not_put_together_with_what_follows() -> None:
    data = HEAD + f.frame(f.OUTPUT, 10, 0, b"a\xc3") + f.frame(f.OUTPUT, 20, 12, b"\xbcb") + f.frame(f.END, 30, 14)
    made = events(Writer().lines(f.frames(data)))
    assert [event[:2] for event in made] == [[0.01, "o"], [0.02, "o"], [0.02, "o"], [0.02, "m"], [0.02, "o"]]
    assert made[1][2] == "\ufffd"
    assert made[3][2] == "10 bytes were lost here"
    assert made[4][2] == "\ufffdb"


def test_times_never_go_back() -> None:
    data = HEAD + f.frame(f.OUTPUT, 50, 0, b"a") + f.frame(f.OUTPUT, 40, 1, b"b")
    assert [event[0] for event in events(Writer().lines(f.frames(data)))] == [0.05, 0.05]


@given(text=st.text(), milliseconds=st.integers(0, f.MAX_TIME))
def test_an_event_is_read_as_it_was_written(text: str, milliseconds: int) -> None:
    line = event_line(milliseconds, "o", text)
    assert line.count("\n") == 1
    found = parse_event(line.encode("utf-8"))
    assert (round(found.seconds * 1000), found.kind, found.text) == (milliseconds, "o", text)


words = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
trees = st.recursive(words, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner))


@given(
    tree=trees, known=st.dictionaries(st.sampled_from(["version", "width", "height", "env", "term", "title"]), trees)
)
def test_any_line_is_an_event_or_a_peer_error(tree: object, known: dict[str, object]) -> None:
    for value in (tree, known, {"version": 2, **known}):
        for parse in (parse_header, parse_event):
            try:
                parse(json.dumps(value))
            except PeerError:
                continue


@given(line=st.binary(max_size=60))
def test_any_bytes_are_an_event_or_a_peer_error(line: bytes) -> None:
    for parse in (parse_header, parse_event):
        try:
            parse(line)
        except PeerError:
            continue


@pytest.mark.parametrize(
    "line", ['[1e400, "o", ""]', '[-1, "o", ""]', '[true, "o", ""]', '[1, "o", "\\ud800"]', "[" * 9999]
)
def test_lines_that_would_make_a_player_stumble(line: str) -> None:
    with pytest.raises(PeerError):
        parse_event(line)


@given(about=st.dictionaries(st.sampled_from(["columns", "rows", "time", "term", "command", "user"]), trees))
def test_a_header_is_made_of_anything(about: dict[str, object]) -> None:
    header = header_of(about)
    try:
        line = header_line(header).encode("utf-8")
    except UnicodeEncodeError:
        return
    assert parse_header(line).columns == header.columns


def test_version_3_of_asciinema() -> None:
    header = parse_header('{"version": 3, "term": {"cols": 100, "rows": 40}}')
    assert (header.columns, header.rows, header.version) == (100, 40, 3)
    assert parse_size("132x50") == (132, 50)
    assert parse_size("132") is parse_size("x") is parse_size("0x0") is parse_size("999999x1") is None
