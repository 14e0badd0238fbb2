"""What shares a machine is together in one worker, and the table names files that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import schedule

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[1]
CONFTEST = """
import os
from tests import schedule

schedule.SHARED = {"test_one.py": "machine", "test_two.py": "machine"}
schedule.FIRST = ("test_two.py", "test_one.py")
pytest_collection_modifyitems = lambda items: schedule.longest_first(items)
pytest_xdist_make_scheduler = lambda config, log: schedule.make(config, log)

def pytest_runtest_call(item):
    with open("ran", "a") as ran:
        ran.write(f"{os.environ['PYTEST_XDIST_WORKER']} {item.nodeid.partition('::')[0]}\\n")
"""
TEST = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(number):
    pass
"""


@pytest.mark.parametrize("name", schedule.FIRST)
def test_every_file_of_the_table_is_there(name: str) -> None:
    assert (ROOT / name).is_file()


def test_one_machine_is_one_workers(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_one=TEST, test_two=TEST, test_other=TEST)
    done = pytester.runpytest_subprocess("-n", "2", "--dist", "loadgroup", "--import-mode=importlib")
    done.assert_outcomes(passed=12)
    ran = [line.split() for line in (pytester.path / "ran").read_text().splitlines()]
    shared = [(worker, name) for worker, name in ran if name != "test_other.py"]
    assert len({worker for worker, _ in shared}) == 1
    assert [name for _, name in shared] == ["test_two.py"] * 4 + ["test_one.py"] * 4
