"""One-time codes as people meet them: tsh on pipes, a real cluster, a real node."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinyport.auth.second_factor import STEP, code_at

from .cluster import BIN, LIMIT, Cluster, text, wait_for

PASSWORD = "correct horse battery"
CAREFUL = """kind = "role"
name = "careful"
[allow]
logins = ["{{internal.logins}}"]
node_labels = { "*" = "*" }
[options]
require_mfa = true
"""


def configure(cluster: Cluster, rule: str) -> None:
    path = cluster.folder / "cluster_config.toml"
    path.write_text(f'kind = "cluster_config"\nname = "cluster"\nsecond_factor = "{rule}"\n')
    done = cluster.tctl("create", "-f", path)
    assert done.returncode == 0, text(done)


@pytest.fixture
def codes(cluster: Cluster) -> Iterator[Cluster]:
    configure(cluster, "required")
    yield cluster
    configure(cluster, "off")


def sign_up(cluster: Cluster, name: str, roles: str) -> tuple[bytes, int]:
    """Accept an invitation as a person with an authenticator would. → the secret, and the time step that is used up."""
    invited = cluster.tctl("users", "add", name, "--logins", cluster.login_name, "--roles", roles, "--format", "json")
    assert invited.returncode == 0, text(invited)
    url = json.loads(invited.stdout)["urls"][0]
    words = (BIN / "tsh", "signup", url, "--ca-pin", str(cluster.ready["ca_pin"]))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, env=cluster.env(name), **pipes) as process:  # type: ignore[call-overload]
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(f"{PASSWORD}\n".encode())
        process.stdin.flush()
        seen, found = b"", None
        while found is None:
            line = process.stderr.readline()
            assert line, seen
            seen += line
            found = re.search(rb"type this into it: ([A-Z2-7]+)", seen)
        secret, step = base64.b32decode(found[1]), int(time.time()) // STEP
        process.stdin.write(f"{code_at(secret, step)}\n".encode())
        process.stdin.close()
        rest = process.stderr.read()
        assert process.wait(LIMIT) == 0, (seen + rest).decode()
    # A QR code was drawn: a block of lines of one width.
    drawn = [line for line in seen.decode().splitlines() if "█" in line]
    assert len(drawn) > 15
    assert len({len(line) for line in drawn}) == 1
    return secret, step


def test_signing_up_and_logging_in_with_a_code(codes: Cluster) -> None:
    secret, step = sign_up(codes, "olga", "access")
    words = ("login", "--proxy", codes.ready["proxy"], "--user", "olga", "--ca-pin", codes.ready["ca_pin"])
    done = codes.tsh(*words, home="olga", input=f"{PASSWORD}\n000000\n")
    assert (done.returncode, b"one-time code is wrong" in done.stderr) == (3, True), text(done)
    done = codes.tsh(*words, home="olga", input=f"{PASSWORD}\n{code_at(secret, step + 1)}\n")
    assert done.returncode == 0, text(done)
    done = codes.tsh("mfa", "ls", home="olga")
    assert b"first" in done.stdout, text(done)


def careful_person(codes: Cluster, name: str, folder: Path) -> tuple[bytes, int]:
    """Somebody who is logged in, and whose role (``careful.toml`` in ``folder``) asks for a code each time: the secret
    and the last step that was used."""
    role = folder / "careful.toml"
    role.write_text(CAREFUL)
    assert codes.tctl("create", "-f", role).returncode == 0
    secret, step = sign_up(codes, name, "careful")
    configure(codes, "off")
    codes.login(name, PASSWORD)
    return secret, step


def test_a_role_that_asks_for_a_code_each_time(codes: Cluster, tmp_path: Path) -> None:
    secret, step = careful_person(codes, "petra", tmp_path)
    target = f"{codes.login_name}@{codes.node}"
    # The proxy hears of a role within a moment; until then it says that there is none.
    refused = wait_for(
        "the role at the proxy",
        lambda: (done := codes.tsh("ssh", target, "true", home="petra")) and b"one-time code" in done.stderr and done,
    )
    assert refused.returncode == 255
    plain = codes.run(
        "ssh", "-F", codes.ssh_config("petra"), f"{target}.{codes.tctl_json('status')['cluster']}", "true", home="petra"
    )
    assert plain.returncode == 255
    assert b"needs a one-time code" in plain.stderr, text(plain)
    done = codes.tsh("ssh", target, "echo in", home="petra", input=f"{code_at(secret, step + 1)}\n")
    assert (done.returncode, done.stdout) == (0, b"in\n"), text(done)


def test_a_command_on_many_nodes_asks_for_one_code(codes: Cluster, tmp_path: Path) -> None:
    secret, step = careful_person(codes, "quinn", tmp_path)
    words = ("run", "--format", "json", codes.node, "--", "echo in")

    def asked() -> object:
        done = codes.tsh(*words, home="quinn")
        return json.loads(done.stdout)["nodes"][0] if b"needs a one-time code" in done.stderr else None

    found = wait_for("the role at the proxy", asked)
    assert (found["result"], found["code"], found["stdout"]) == ("failed", "mfa_required", "")
    wrong = codes.tsh(*words, home="quinn", input="000000\n")
    assert b"error: the one-time code is wrong, was used already" in wrong.stderr, text(wrong)
    done = codes.tsh(*words, home="quinn", input=f"{code_at(secret, step + 1)}\n")
    assert (done.returncode, json.loads(done.stdout)["nodes"][0]["stdout"]) == (0, "in\n"), text(done)


def test_files_are_copied_with_a_code(codes: Cluster, tmp_path: Path) -> None:
    secret, step = careful_person(codes, "rosa", tmp_path)
    place = f"{codes.login_name}@{codes.node}:{tmp_path}"
    wait_for("the role at the proxy", lambda: b"one-time" in codes.tsh("ssh", codes.node, "true", home="rosa").stderr)
    # From the node to itself: two connections, one question.
    words = ("scp", "-q", f"{place}/careful.toml", f"{codes.login_name}@{codes.node}.tinyport.local:{tmp_path}/copy")
    done = codes.tsh(*words, home="rosa", input=f"{code_at(secret, step + 1)}\n")
    assert done.returncode == 0, text(done)
    assert (tmp_path / "copy").read_text() == CAREFUL
