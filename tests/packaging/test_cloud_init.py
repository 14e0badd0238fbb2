"""docs/install.md's recipe for a card, on a trixie with cloud-init whose first boot this is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.packaging import booted_root
from tests.packaging.booted_root import BootedRoot
from tests.packaging.conftest import People
from tests.packaging.test_first_boot import blocks, board
from tests.packaging.trixie import CONFIGURATION, DEPENDENCIES, NODE
from tests.scenarios.cluster import LIMIT, wait_for
from tinyport.core.version import VERSION

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1200)]

FIRMWARE = "/boot/firmware"
#: as Raspberry Pi OS has it; and the network is this machine's
SETTINGS = f"""\
datasource_list: [ NoCloud, None ]
datasource: {{ NoCloud: {{ seedfrom: "file://{FIRMWARE}" }} }}
network: {{ config: disabled }}
"""


@pytest.fixture
def card(tmp_path: Path, packages: Path, people: People) -> BootedRoot:
    """A machine as its owner has prepared it: nothing of ours but what is on the boot partition."""
    root = booted_root.make(tmp_path / "root", (*DEPENDENCIES, "cloud-init"))
    root.path("/etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg").write_text(SETTINGS)
    # Its sshd is not what this is about, and this machine may have one.
    root.path("/etc/systemd/system/ssh.service").symlink_to("/dev/null")
    firmware = root.path(FIRMWARE)
    (firmware / "tinyport").mkdir(parents=True)
    for name in NODE:
        shutil.copy(packages / f"{name}_{VERSION}_all.deb", firmware / "tinyport")
    token = people.cluster.tctl_json("tokens", "add", "--type", "node")["token"]
    (firmware / "tinyport-token").write_text(f"{token}\n")
    (firmware / "meta-data").write_text("instance-id: first-boot\n")
    (recipe,) = blocks("yaml")
    # Ports of this machine are not the card's.
    recipe = recipe.replace("enabled = true\n", "enabled = true\n      listen = []\n")
    recipe = recipe.replace("port.example.com:443", people.cluster.ready["proxy"])
    (firmware / "user-data").write_text(recipe.replace("sha256:...", people.cluster.ready["ca_pin"]))
    return root


def test_a_card_joins_at_its_first_boot(card: BootedRoot, people: People) -> None:
    try:
        card.start()
        wait_for(
            "cloud-init to be done", lambda: "status: done" in card.run("cloud-init", "status", check=False).stdout
        )
        schema = card.run("cloud-init", "schema", "--config-file", f"{FIRMWARE}/user-data")
        assert "Valid schema" in schema.stdout
        name = wait_for("a node with its board's name", lambda: board(people))
        people.reached(name)
        assert people.ssh(name, "hostname; id -un").split()[1] == people.cluster.login_name
        wait_for("the token to be gone", lambda: not card.path(f"{FIRMWARE}/tinyport-token").exists())
        assert re.search("^token = .*erase = true", card.path(CONFIGURATION).read_text(), re.M)
        # It is the same node after a reboot, by its own key.
        card.shut_down()
        card.start()
        people.reached(name, LIMIT)
    except AssertionError as error:
        log = card.path("/var/log/cloud-init-output.log")
        said = log.read_text() if log.exists() else ""
        raise AssertionError(f"{error}\n{said}\n{card.log('tinyport-node.service')}") from None
    finally:
        card.stop()
