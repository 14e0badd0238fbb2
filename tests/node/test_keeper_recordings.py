"""Recordings as the keeper holds them, without processes: what a worker or a client that leaves can leave behind."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tinyport.core.errors import Unavailable
from tinyport.node.keeper import recordings
from tinyport.node.keeper.recordings import Recording, Recordings
from tinyport.node.loop import Loop


class Bench:
    """``audited``: what was said of sessions; ``told``: link's descriptors, which are ours."""

    def __init__(self) -> None:
        self.audited: list[tuple[str, dict[str, object]]] = []
        self.told: list[int] = []
        self.loop = Loop()
        audit = SimpleNamespace(session=lambda name, *about, **fields: self.audited.append((name, fields)))
        log = SimpleNamespace(warning=lambda *words, **fields: None)
        self.recordings = Recordings(self.loop, self._tell, cast(Any, audit), cast(Any, log), lambda: 0.0, dict)
        self.connection = cast(
            Any,
            SimpleNamespace(
                number=7, identity=SimpleNamespace(name="shed"), endpoint=SimpleNamespace(peer=("192.0.2.1", 1))
            ),
        )
        self._plan = cast(Any, SimpleNamespace(kind="exec", command="true", terminal=None))
        self._grant = cast(Any, SimpleNamespace(user="alice", login="pi", terms=SimpleNamespace(recording="strict")))

    def _tell(self, message: Mapping[str, object], descriptors: Sequence[int]) -> bool:
        self.told += [os.dup(descriptor) for descriptor in descriptors]
        return True

    def begin(self, number: int, begun: Any = None) -> Recording | None:
        return self.recordings.begin(self.connection, number, f"{number:032x}", self._grant, self._plan, begun)

    def close(self) -> None:
        self.recordings.connection_over(self.connection)
        for descriptor in self.told:
            os.close(descriptor)
        self.loop.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_a_client_that_leaves_does_not_wait_for_ever(bench: Bench) -> None:
    heard: list[tuple[Recording | None, Unavailable | None]] = []
    bench.begin(1, lambda recording, error: heard.append((recording, error)))
    bench.recordings.connection_over(bench.connection)
    ((recording, error),) = heard
    assert recording is None
    assert "the client is gone" in str(error)
    # What link says afterwards concerns nobody.
    bench.recordings.heard({"op": "recording", "sid": f"{1:032x}"})
    assert len(heard) == 1


def test_a_worker_that_ends_none_gets_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "MOST_OF_ONE", 3)
    assert all(bench.begin(number) for number in range(3))
    assert bench.begin(3) is None
    assert [name for name, _ in bench.audited] == ["session.data_lost"]
    with pytest.raises(Unavailable):
        bench.begin(4, lambda recording, error: None)
    bench.recordings.over(bench.connection, {"session": 0, "lost": 0})
    assert bench.begin(5) is not None
