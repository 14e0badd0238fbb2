"""``make bench``, or ``python -m bench [--quick] [suite ...]``: figures beside their peers, as a table, JSON and plots.

Exit status 0 when everything could be measured, whatever the figures say: a missed target is shown as missed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from dataclasses import replace

from bench import login_files, machine, pages, plots
from bench.report import Suite, table

#: name → what it measures; each is a module with ``measure(quick) -> Suite``
SUITES = {
    "handshake": "full connections a second and CPU for each, beside sshd and dropbear",
    "bulk": "exec and sftp, both ways, two ciphers, beside sshd",
    "paths": "exec, sftp and scp, straight and through proxy and tunnel, beside sshd and ssh -J",
    "certificate": "certificate checks and access decisions a second on one core",
    "fleet": "joins and logins a second at auth",
    "scale": "simulated fleets: memory, CPU and traffic at rest, listings, everybody back after a restart",
    "latency": "exec at ten a second, the echo of a key, the first session, beside sshd",
    "footprint": "an idle node's size on disk, writes and wake-ups",
    "modules": "what each import costs each process of a node",
    "memory": "a node and sshd with 1 to 500 open sessions",
    "web": "the page in a browser: what comes first, and the echo of a key, beside ssh",
    "arm64": "the node under qemu-user: memory, and the start of its worker",
    "cluster": "the idle joined node, its first session, tsh through proxy and tunnel",
}


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="suite", help=", ".join(SUITES))
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it works, not to quote")
    parser.add_argument("--no-save", action="store_true", help="do not write bench/results")
    options = parser.parse_args(words)
    unknown = [name for name in options.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite {unknown[0]!r}, there are {', '.join(SUITES)}")
    if sys.dont_write_bytecode:
        parser.error("PYTHONDONTWRITEBYTECODE is set: that measures something else")
    login_files.hide()
    finished: list[Suite] = []
    for name in options.suites or SUITES:
        print(f"{name}: {SUITES[name]}", flush=True)
        begin = time.monotonic()
        suite: Suite = importlib.import_module(f"bench.{name}").measure(options.quick)
        took = time.monotonic() - begin
        finished.append(replace(suite))
        if not options.no_save:
            path = suite.save(machine.describe({"quick": options.quick, "seconds": round(took)}))
            print(f"  {took:.0f} s, {path}")
    if not options.no_save:
        plots.draw()
        pages.write()
    print()
    print(table([row for suite in finished for row in suite.rows]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
