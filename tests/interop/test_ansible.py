"""Ansible with nothing but what ``tsh config`` printed: ping, copy, and a task that runs on without a connection."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import need_program
from tests.interop.conftest import Peer
from tests.scenarios.cluster import text

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - ping:
    - copy: { src: "%(folder)s/source", dest: "%(folder)s/target", mode: "0640" }
    - command: sh -c "sleep 0.2; echo done"
      async: 60
      poll: 1
      register: later
    - assert: { that: later.stdout == "done" }
    - fetch: { src: "%(folder)s/target", dest: "%(folder)s/fetched", flat: true }
"""


@pytest.mark.slow
@pytest.mark.parametrize("pipelining", ["False", "True"])
def test_a_playbook(peer: Peer, tmp_path: Path, pipelining: str) -> None:
    need_program("ansible-playbook")
    (tmp_path / "source").write_bytes(bytes(range(256)) * 100)
    inventory = tmp_path / "inventory"
    inventory.write_text(
        f"{peer.name} ansible_user={peer.cluster.login_name} ansible_python_interpreter=/usr/bin/python3"
        f" ansible_ssh_common_args='-F {peer.config}'\n"
    )
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(PLAYBOOK % {"folder": tmp_path})
    env = {
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": pipelining,
        # ControlPersist would keep a connection to the cluster after the test.
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=no",
        "LC_ALL": "C.UTF-8",
    }
    done = peer.cluster.run("ansible-playbook", "-i", inventory, playbook, home=peer.user, env=env)
    assert done.returncode == 0, text(done)
    assert b"ok=5" in done.stdout, text(done)
    for name in ("target", "fetched"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "source").read_bytes()
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o640
