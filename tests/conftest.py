"""What all tests share: who may run, and that a missing peer is never mistaken for a pass."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import settings

from bench import login_files
from tests import schedule

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

#: On the machines that judge a change nothing may be skipped for want of a program.
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def pytest_configure() -> None:
    login_files.hide()
    # How long an example takes is the machine's business.
    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first. Tests that become other users are skipped, visibly, for who is not root."""
    schedule.longest_first(items)
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root")
    for item in items:
        if item.get_closest_marker("root") is not None:
            item.add_marker(skip)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    return schedule.make(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            need_program(name)


def need_program(name: str) -> str:
    """The path of a peer's program. Missing: a failure in CI, a visible skip on a desk."""
    # Daemons live where a user's PATH does not look.
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        missing(name)
    return found


def missing(what: str) -> NoReturn:
    """Something of another package is not here."""
    if IN_CI:
        pytest.fail(f"{what} is not installed; .ci/run should have done that")
    pytest.skip(f"{what} is not installed")
