"""Which worker of a run gets which tests, and when: what shares a machine stays together, what is long begins first.

pytest-xdist's own groups hang on the ids of tests, which plugins cannot change since pytest 9.2: each worker then made
each machine. Who hands out the tests knows nothing of them but their ids, so this is a table of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

#: file → the machine that its tests share with those of the same name; longest first
SHARED = {
    "tests/packaging/test_debian.py": "trixie",
    "tests/packaging/test_systemd.py": "trixie",
    "tests/packaging/test_bookworm.py": "bookworm",
    "tests/packaging/test_openwrt_node.py": "router",
    "tests/scenarios/test_clusters_behind_balancers.py": "two clusters behind balancers",
    "tests/scenarios/test_nat.py": "a network with a router in it",
}
#: begun before all others: at the end of a run everybody would wait for it
FIRST = ("tests/compatibility/test_oldest_libraries.py", *SHARED, "tests/packaging/test_cloud_init.py")


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def longest_first(items: list[pytest.Item]) -> None:
    """Put what takes long at the beginning, and leave the others as they are."""
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(file_of(item.nodeid), len(places)))


def make(config: pytest.Config, log: Producer) -> Scheduling:
    """Each test by itself, to whoever is free; those of one machine to one worker, one after the other."""
    # Without it tests run, too, in one process.
    from xdist.scheduler import LoadScopeScheduling

    class Schedule(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return SHARED.get(file_of(nodeid), nodeid)

    # In the order of ``longest_first``, not by how many tests share something.
    config.option.loadscopereorder = False
    return Schedule(config, log)
