"""A loop of the node's that runs for as long as a test wants it to."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.node.session_harness import LIMIT
from tinyport.node.loop import Loop


def run_until(loop: Loop, check: Callable[[], object]) -> None:
    """Run it until ``check`` is true, again and again for the same loop."""
    end = time.monotonic() + LIMIT

    def look() -> None:
        if check() or time.monotonic() > end:
            loop.stop()
        else:
            loop.after(0.005, look)

    loop.after(0, look)
    loop._running = True
    loop.run()
    assert check()
