"""``tsh play``: a recording in this terminal, from auth or from a file, with keys to go to and fro."""

from __future__ import annotations

import argparse
import os
import select
import sys
import termios
import threading
import time
from collections.abc import Iterable, Iterator

from tinyport.client.playback import Playback, Tape
from tinyport.client.terminal import RawTerminal, is_terminal, size_of
from tinyport.core.asciicast import MAX_LINE
from tinyport.core.durations import parse_duration
from tinyport.core.errors import OperatorError, PeerError, TinyportError
from tinyport.host.console import UsageError, print_error
from tinyport.host.console_recordings import path_of, save

STEP, LEAP = 5.0, 60.0
IDLE_LIMIT = 2.0
# Auth sends an empty line every 10 s while nothing happens.
SILENCE = 35.0
# A screen that a status line stood in is drawn anew when that is quickly done.
REDRAWN = 4 * 1024 * 1024
# What programs leave behind: their screen, margins, colours, character sets, mouse, keys, inserting, a hidden cursor.
RESET = "\x1b[?1049l\x1b[4;20l\x1b[?1000;1002;1003;1004;1006;2004l"
RESET += "\x1b[?25h\x1b[?7h\x1b[?1l\x1b>\x1b(B\x0f\x1b7\x1b[r\x1b8\x1b[0m"
CLEAR = f"{RESET}\x1b[2J\x1b[3J\x1b[H"
HELP = "space pause   \u2190 \u2192 5 s   [ ] 1 min   + - speed   0 start   G live   q quit"

#: keys of several bytes, in both modes of the cursor keys
LEFT, RIGHT = b"\x1b[D", b"\x1b[C"
_SEQUENCES = {LEFT: LEFT, RIGHT: RIGHT, b"\x1bOD": LEFT, b"\x1bOC": RIGHT}


def run(args: argparse.Namespace) -> int:
    """Play it; or write it into a file."""
    lines = _lines(args)
    if args.output:
        save(lines, args.output)
        return 0
    limit = _idle_limit(args.idle_limit)
    if not args.speed > 0:
        raise UsageError("--speed is more than 0: 2 is twice as fast")
    tape = Tape(limit)
    if not is_terminal(1):
        return _print(tape, lines)
    return Player(Loader(tape, lines), speed=args.speed, follow=args.follow).run()


def _idle_limit(text: str | None) -> float | None:
    if text is None:
        return IDLE_LIMIT
    if text in ("none", "off"):
        return None
    try:
        return float(parse_duration(text))
    except TinyportError as error:
        raise UsageError(error.message, hint='write "2s", or "none"') from None


def _lines(args: argparse.Namespace) -> Iterator[bytes]:
    if args.what == "-" or "/" in args.what or args.what.endswith(".cast") or os.path.isfile(args.what):
        return _of_file(args.what)
    return _of_session(args)


def _of_file(name: str) -> Iterator[bytes]:
    with open(0 if name == "-" else name, "rb") as file:
        while line := file.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise PeerError(f"a line of {name} is longer than {MAX_LINE} bytes")
            if line.strip():
                yield line.rstrip(b"\r\n")


def _of_session(args: argparse.Namespace) -> Iterator[bytes]:
    from tinyport.client.whoami import auth_client, identity_of

    with auth_client(identity_of(args)) as client:
        yield from client.lines("GET", path_of(args.what, follow=args.follow), silence=SILENCE if args.follow else 60.0)


def _print(tape: Tape, lines: Iterable[bytes]) -> int:
    """No terminal: all of it, without waiting."""
    shown = 0
    for line in lines:
        tape.feed(line)
        for text in tape.texts[shown:]:
            sys.stdout.write(text)
        # Whoever follows wants it now.
        sys.stdout.flush()
        shown = len(tape.texts)
    if tape.header is None:
        raise PeerError("this is not a recording")
    return 0


class Loader:
    """Feeds the tape in a thread of its own; ``wake`` is readable when there is more, or it has ended."""

    def __init__(self, tape: Tape, lines: Iterator[bytes]) -> None:
        self.tape = tape
        self.error: Exception | None = None
        self._lines = lines
        self.wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._load, name="recording", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _load(self) -> None:
        try:
            for line in self._lines:
                self.tape.feed(line)
                self._tell()
            if self.tape.header is None:
                raise PeerError("this is not a recording")
        except Exception as error:
            self.error = error
        finally:
            self.tape.ended = True
            self._tell()

    def _tell(self) -> None:
        try:
            os.write(self._woken, b".")
        except BlockingIOError:
            # It will be read.
            return

    def heard(self) -> None:
        try:
            os.read(self.wake, 65536)
        except BlockingIOError:
            return


class Player:
    """Shows what is due, and hears keys when standard input is a terminal."""

    def __init__(self, loader: Loader, *, speed: float, follow: bool) -> None:
        self._loader = loader
        self._tape = loader.tape
        self._head = Playback(loader.tape, time.monotonic(), speed=speed, live=follow)
        self._follow = follow
        self._keys = is_terminal(0)
        self._held = b""
        self._status = False
        self._quit = False

    def run(self) -> int:
        terminal = RawTerminal(0) if self._keys else None
        self._loader.start()
        try:
            self._wait_for_header()
            if terminal is not None:
                terminal.enter()
            while not self._quit and not (self._head.at_end and not self._head.paused):
                self._turn()
        except KeyboardInterrupt:
            pass
        finally:
            self._write(f"{RESET}\r\n")
            if terminal is not None:
                # What a terminal answered to is not to be typed into the shell.
                termios.tcflush(0, termios.TCIFLUSH)
                terminal.close()
        if self._loader.error is not None and not self._quit:
            raise self._loader.error
        return 0

    def _wait_for_header(self) -> None:
        while self._tape.header is None and not self._tape.ended:
            select.select([self._loader.wake], [], [])
            self._loader.heard()
        header = self._tape.header
        if header is None:
            return
        columns, rows, *_ = size_of(1)
        if columns and (columns < header.columns or rows < header.rows):
            print_error(
                f"tsh: hint: this was recorded in {header.columns}x{header.rows}, your terminal has {columns}x{rows}"
            )
        self._head = Playback(self._tape, time.monotonic(), speed=self._head.speed, live=self._follow)

    def _turn(self) -> None:
        now = time.monotonic()
        due = self._head.due(now)
        if due:
            self._hide_status(len(due))
            for text in due:
                self._write(text)
            return
        readers = [self._loader.wake, *([0] if self._keys else [])]
        ready, _, _ = select.select(readers, [], [], self._head.wait(now))
        if self._loader.wake in ready:
            self._loader.heard()
        if 0 in ready:
            self._hear()

    # ------------------------------------------------------------------ keys

    def _hear(self) -> None:
        data = os.read(0, 1024)
        if not data:
            self._keys = False
            return
        self._held += data
        while self._held and not self._quit:
            typed = next((typed for typed in _SEQUENCES if self._held.startswith(typed)), self._held[:1])
            self._held = self._held[len(typed) :]
            self._key(_SEQUENCES.get(typed, typed))

    def _key(self, key: bytes) -> None:
        now = time.monotonic()
        head = self._head
        if key in (b"q", b"\x03", b"\x04"):
            self._quit = True
        elif key == b" ":
            head.pause(now)
            self._say(now)
        elif key in (LEFT, RIGHT, b"[", b"]", b"0"):
            steps = {LEFT: -STEP, RIGHT: STEP, b"[": -LEAP, b"]": LEAP}
            back = head.go_to(0.0, now) if key == b"0" else head.skip(steps[key], now)
            if back:
                self._write(CLEAR)
            self._write("".join(head.catch_up(now)))
            self._say(now)
        elif key in (b"+", b"=", b"-"):
            head.change_speed(0.5 if key == b"-" else 2.0, now)
            self._say(now)
        elif key == b"G":
            head.go_live(now)
        elif key in (b"h", b"?"):
            self._say(now, HELP)

    # ------------------------------------------------------------------ the screen

    def _say(self, now: float, words: str = "") -> None:
        """In the last line, until something is shown."""
        head = self._head
        state = "paused" if head.paused else "live" if head.live else "playing"
        speed = f"{head.speed:g}x"
        where = f"{clock_text(head.position(now))} / {clock_text(self._tape.length)}"
        text = words or f"{where}  {speed}  {state}   (h: keys)"
        self._status = True
        self._write(f"\x1b7\x1b[999;1H\x1b[0;7m\x1b[2K {text} \x1b[0m\x1b8")

    def _hide_status(self, coming: int) -> None:
        """``coming``: so many events before the head are shown next."""
        if not self._status:
            return
        self._status = False
        before = self._tape.texts[: self._head.index - coming]
        if sum(map(len, before)) <= REDRAWN:
            # What stood where the status was comes back; what is due now is shown after that.
            self._write(CLEAR + "".join(before))
        else:
            self._write("\x1b7\x1b[999;1H\x1b[2K\x1b8")

    def _write(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        while data:
            try:
                data = data[os.write(1, data) :]
            except BlockingIOError:
                select.select([], [1], [])
            except OSError as error:
                raise OperatorError("the terminal is gone", detail=str(error)) from None


def clock_text(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
