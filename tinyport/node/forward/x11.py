"""X11 displays for sessions: a port on loopback from 6010 up, the client's cookie in the user's Xauthority. Light."""

from __future__ import annotations

import errno
import os
import signal

from tinyport.node.forward.connect import words
from tinyport.node.forward.listen import Listener, port_listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from tinyport.node.loop import Loop

#: sshd_config(5), X11DisplayOffset; sshd tries a thousand
FIRST_DISPLAY, LAST_DISPLAY = 10, 1000
X11_PORT = 6000
XAUTH = ("/usr/bin/xauth", "/usr/local/bin/xauth", "/usr/X11R6/bin/xauth", "/opt/X11/bin/xauth")
# It waits for a lock on the file for ten seconds and more; sshd waits for it, too.
XAUTH_LIMIT = 15.0


def open_display(
    loop: Loop,
    cookie: tuple[str, str],
    screen: int,
    once: bool,
    opened: Callable[[Listener | None, str], None],
) -> None:
    """Listen and have xauth remember ``cookie`` (its protocol and hexadecimal digits, checked by the keeper). Then
    ``opened`` gets the listener and what DISPLAY is to be, or None and what went wrong.

    The cookie stays when the display goes, as sshd leaves it: the next display of that number replaces it.
    """
    program = next((path for path in XAUTH if os.access(path, os.X_OK)), None)
    if program is None:
        opened(None, "there is no xauth program on this machine")
        return
    listener = None
    try:
        listener = _free_display(once)
        number = listener.port - X11_PORT
        # As sshd with X11UseLocalhost: the cookie is kept for the machine's own name, DISPLAY says localhost.
        name = f"unix:{number}.{screen}"
        pid = _start_xauth(program, f"remove {name}\nadd {name} {cookie[0]} {cookie[1]}\n")
    except OSError as error:
        if listener is not None:
            listener.close()
        opened(None, words(error))
        return
    timer = loop.after(XAUTH_LIMIT, lambda: loop.kill(pid, signal.SIGKILL))

    def stored(status: int) -> None:
        timer.cancel()
        if status:
            listener.close()
            opened(None, "xauth could not store the cookie")
        else:
            opened(listener, f"localhost:{number}.{screen}")

    loop.child(pid, stored)


def _free_display(once: bool) -> Listener:
    for number in range(FIRST_DISPLAY, LAST_DISPLAY):
        try:
            return port_listener(X11_PORT + number, once=once)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no display is free")


def _start_xauth(program: str, commands: str) -> int:
    # The cookie goes through a pipe, as everybody may read command lines. It is less than a pipe holds: no wait.
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(writing, commands.encode("ascii"))
        pid = os.fork()
        if pid == 0:
            _become_xauth(program, reading)
    finally:
        os.close(reading)
        os.close(writing)
    return pid


def _become_xauth(program: str, commands: int) -> None:
    """The child: nothing of ours but the pipe and the user's environment."""
    try:
        os.dup2(commands, 0)
        nothing = os.open("/dev/null", os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.execv(program, [program, "-q", "-"])
    finally:
        os._exit(127)
