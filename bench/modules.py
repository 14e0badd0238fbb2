"""Where the megabytes are: what each process of a node pays for each module, imported in the order that it does."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from bench.report import Row, Suite
from tinyport.node.python_process import search_path

_KEYS = "cryptography.hazmat.primitives.serialization"
_ONE_KEY = "cryptography.hazmat.primitives.asymmetric.ed25519"
#: process → what is imported one after the other, on a bare interpreter (``-I -S``) as the node's are; ``module:name``
#: is called, too
CHAINS = {
    "monitor": ["socket", "select", "signal", "json", "selectors", "tinyport.node.monitor.monitor"],
    "link": ["socket", "select", "signal", "json", "selectors", "ssl", "tinyport.node.link.link"],
    "keeper": ["socket", "json", "selectors", _ONE_KEY, "tinyport.node.keeper.process:load"],
    "worker": [
        *("socket", "json", "ssl", "tinyport.node.worker.process:leave_out"),
        *("asyncio", _KEYS, "asyncssh", "tinyport.node.worker.worker"),
    ],
}

_CODE = """
import sys
sys.path[:] = {path!r}
def taken():
    found = dict.fromkeys(("Rss", "Private_Clean", "Private_Dirty"), 0)
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            name = line.partition(":")[0]
            if name in found:
                found[name] = int(line.split()[1])
    return found["Rss"], found["Private_Dirty"]
seen = [("interpreter", *taken())]
for name in {names!r}:
    module, _, called = name.partition(":")
    __import__(module)
    if called:
        getattr(sys.modules[module], called)()
    seen.append((name, *taken()))
print({open!r} + ",".join('["%s",%d,%d]' % one for one in seen) + {close!r})
"""


def chain(names: list[str]) -> list[tuple[str, int, int]]:
    """(module, RSS, private dirty memory after it), in kB."""
    code = _CODE.format(path=search_path(), names=names, open="[", close="]")
    words = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: list[tuple[str, int, int]] = [(name, rss, dirty) for name, rss, dirty in json.loads(done.stdout)]
    return found


def measure(quick: bool) -> Suite:
    suite = Suite("modules")
    for process, names in CHAINS.items():
        runs = [chain(names) for _ in range(3 if quick else 9)]
        before = 0.0
        for place, (module, *_) in enumerate(runs[0]):
            dirty = statistics.median(run[place][2] for run in runs) / 1024
            rss = statistics.median(run[place][1] for run in runs) / 1024
            row = Row(
                f"{process}: {module}", "MB private dirty", dirty - before, note=f"{dirty:.1f} so far, RSS {rss:.1f}"
            )
            suite.rows.append(row)
            before = dirty
    return suite
