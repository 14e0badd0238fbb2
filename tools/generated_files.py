"""Writes what packages ship and programs know of themselves: manual pages and completions.

    python3 tools/generated_files.py FOLDER    → FOLDER/man/*.1, FOLDER/completions/{bash,zsh,fish}/*

Needs no library besides the standard one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tinyport.admin.main import build_parser as tinyport_parser  # noqa: E402
from tinyport.admin.tctl import build_parser as tctl_parser  # noqa: E402
from tinyport.admin.tctl_complete import OFFERS as TCTL_OFFERS  # noqa: E402
from tinyport.client import arguments  # noqa: E402
from tinyport.client.complete import OFFERS as TSH_OFFERS  # noqa: E402
from tinyport.client.main import parser as tsh_parser  # noqa: E402
from tinyport.host.console import CommandLine  # noqa: E402
from tinyport.host.console_completion import completion_script  # noqa: E402
from tinyport.host.console_man import man_page  # noqa: E402

PROGRAMS: dict[str, Callable[[], CommandLine]] = {"tinyport": tinyport_parser, "tctl": tctl_parser, "tsh": tsh_parser}
OFFERS = {"tctl": TCTL_OFFERS, "tsh": TSH_OFFERS}
ENVIRONMENT = {
    "tinyport": {"TINYPORT_CONFIG": "the configuration file, when none is named on the command line"},
    "tctl": {
        "TINYPORT_CONFIG": "the configuration file of the auth server on this machine",
        "TINYPORT_HOME": "the folder of profiles and keys (default ~/.tsh)",
        "TINYPORT_PROXY": "the cluster's proxy, HOST:PORT",
    },
    "tsh": arguments.ENVIRONMENT,
}
FILES = {
    "tinyport": {
        "/etc/tinyport/tinyport.toml": "the configuration",
        "/var/lib/tinyport": "everything that is kept, in a folder for each role",
    },
    "tctl": {"/etc/tinyport/tinyport.toml": "where the auth server of this machine keeps its socket"},
    "tsh": arguments.FILES,
}
#: as bash-completion, zsh and fish want their files called
COMPLETIONS = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}


def written(folder: Path) -> list[Path]:
    """Write all of it below ``folder``; returns the files."""
    found: dict[Path, str] = {}
    for name, build in PROGRAMS.items():
        others = [f"{other}(1)" for other in PROGRAMS if other != name]
        others += arguments.SEE_ALSO if name == "tsh" else ()
        page = man_page(build(), environment=ENVIRONMENT[name], files=FILES[name], see_also=others)
        found[folder / "man" / f"{name}.1"] = page
        for shell, pattern in COMPLETIONS.items():
            script = completion_script(build(), shell, OFFERS.get(name))
            found[folder / "completions" / shell / pattern.format(name)] = script
    for path, text in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(found)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    for path in written(Path(sys.argv[1])):
        print(path)
