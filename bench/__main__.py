"""``make bench``, or ``python -m bench [--quick] [suite ...]``: figures beside their peers, as a table, JSON and plots.

Exit status 0 when everything could be measured, whatever the figures say: a missed target is shown as missed. A suite
that fails leaves its results as they were, and the status is 1.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from dataclasses import replace
from pathlib import Path

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

EXAMPLES = """\
examples:
  make bench                                     everything, some half an hour on two quiet cores
  python -m bench handshake bulk                 two suites; the others' results stay as they are
  python -m bench --quick --no-save scale        does it work here? 250 nodes, three minutes, nothing is written
  python -m bench.pages                          README and docs anew from bench/results
  python -m bench.guard                          has anything grown by more than a tenth?
"""
#: Debian packages of the peers and of the tools that suites need
PEERS = {
    "sshd": "openssh-server",
    "dropbear": "dropbear-bin",
    "dropbearconvert": "dropbear-bin",
    "ssh": "openssh-client",
}


def main(words: list[str] | None = None) -> int:
    suites = "\n".join(f"  {name:<12} {what}" for name, what in SUITES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog=f"suites:\n{suites}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suites", nargs="*", metavar="suite", help="what to measure (all of it)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it works, not to quote")
    parser.add_argument("--no-save", action="store_true", help="do not write bench/results")
    options = parser.parse_args(words)
    unknown = [name for name in options.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite {unknown[0]!r}, there are {', '.join(SUITES)}")
    if sys.dont_write_bytecode:
        parser.error("PYTHONDONTWRITEBYTECODE is set: that measures something else")
    machine.install(PEERS)
    login_files.hide()
    finished: list[Suite] = []
    failed: list[str] = []
    chosen = options.suites or list(SUITES)
    for place, name in enumerate(chosen, 1):
        print(f"[{place}/{len(chosen)}] {name}: {SUITES[name]}", flush=True)
        begin = time.monotonic()
        try:
            suite: Suite = importlib.import_module(f"bench.{name}").measure(options.quick)
        except (Exception, SystemExit) as error:
            # Half an hour of the others' work is not to be lost for it.
            failed.append(name)
            print(f"  {name} could not be measured: {type(error).__name__} {error}", file=sys.stderr, flush=True)
            continue
        took = time.monotonic() - begin
        finished.append(replace(suite))
        print(f"  took {took:.0f} s", flush=True)
        if not options.no_save:
            path = suite.save(machine.describe({"quick": options.quick, "seconds": round(took)}))
            print(f"  {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}", flush=True)
    if not options.no_save:
        plots.draw()
        pages.write()
    print()
    print(table([row for suite in finished for row in suite.rows]))
    if failed:
        print(f"bench: error: could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
