"""What monitor and link may load. Each module more is memory on every device, for as long as it is on."""

from __future__ import annotations

import subprocess

from tinyport.node.python_process import light_arguments, package_root

#: of the standard library, by their own names; what these bring along by themselves is fine
STANDARD = frozenset(
    {
        "array",
        "base64",
        "binascii",
        "collections",
        "enum",
        "errno",
        "fcntl",
        "functools",
        "gc",
        "hashlib",
        "json",
        "operator",
        "os",
        "re",
        "reprlib",
        "resource",
        "select",
        "selectors",
        "signal",
        "socket",
        "ssl",
        "stat",
        "struct",
        "sys",
        "time",
        "types",
        "warnings",
        "zlib",
    }
)

#: brought along by these, on one version of Python or another
BROUGHT = frozenset(
    {
        "abc",
        "codecs",
        "copyreg",
        "genericpath",
        "io",
        "itertools",
        "keyword",
        "math",
        "posixpath",
        "sre_compile",
        "sre_constants",
        "sre_parse",
        "weakref",
    }
)

#: our own: nothing of these may load what is heavy
OWN = frozenset(
    {
        "core.clock",
        "core.errors",
        "core.events",
        "core.identity",
        "core.names",
        "core.recording_frames",
        "core.sources",
        "host.files",
        "host.logging_line",
        "host.privileges",
        "host.sd_notify",
        "host.shutting_down",
        "host.tls",
        "link.dial_notice",
        "link.http_proxy",
        "link.httphead",
        "link.tlsstream",
        "link.websocket",
        "node.confinement",
        "node.generations",
        "node.identity_view",
        "node.ipc",
        "node.labels",
        "node.link",
        "node.link_connect",
        "node.link_dial",
        "node.link_documents",
        "node.link_events",
        "node.link_generations",
        "node.link_inherited",
        "node.link_keeper",
        "node.link_listen",
        "node.link_penalties",
        "node.link_places",
        "node.link_recordings",
        "node.link_tunnel",
        "node.link_tunnels",
        "node.loop",
        "node.monitor",
        "node.monitor_generations",
        "node.monitor_keeper",
        "node.monitor_link",
        "node.monitor_listen",
        "node.monitor_reached",
        "node.monitor_reload",
        "node.monitor_renewal",
        "node.monitor_status",
        "node.python_process",
        "node.spool",
    }
)

#: never, with what they cost
HEAVY = frozenset(
    {
        "asyncio",
        "cryptography",
        "ctypes",
        "dataclasses",
        "datetime",
        "email",
        "http",
        "logging",
        "pathlib",
        "random",
        "subprocess",
        "tempfile",
        "threading",
        "traceback",
        "typing",
        "urllib",
        "uuid",
    }
)


#: of the forwarding helper, of which there is one for each connection that forwards
HELPER = frozenset(
    {
        "core.errors",
        "host.privileges",
        "node.forward",
        "node.forward_connect",
        "node.forward_listen",
        "node.forward_x11",
        "node.ipc",
        "node.loop",
        "node.python_process",
    }
)
HELPER_STANDARD = STANDARD - {"base64", "binascii", "hashlib", "ssl", "warnings", "zlib"}

#: of the sftp server, of which there is one for each session that moves files
SFTP = frozenset(
    {
        "node.sftp",
        "node.sftp_attributes",
        "node.sftp_extensions",
        "node.sftp_handles",
        "node.sftp_listing",
        "node.sftp_operations",
        "node.sftp_owners",
        "node.sftp_paths",
        "node.sftp_requests",
        "node.sftp_root",
        "node.sftp_stream",
        "node.sftp_wire",
    }
)
SFTP_STANDARD = frozenset({"errno", "fcntl", "os", "stat", "struct", "sys", "time"})


def modules_of(code: str) -> set[str]:
    """The modules in a bare interpreter of ours after ``code``."""
    argv = light_arguments("tinyport", call="").copy()
    argv[-1] = f"import sys; sys.path.append({package_root()!r}); {code}; print(' '.join(sys.modules))"
    done = subprocess.run(argv, capture_output=True, check=True, timeout=60, text=True)
    return set(done.stdout.split())


def loaded() -> set[str]:
    """What is in a monitor after it has loaded all that it and link need."""
    return modules_of("from tinyport.node.monitor import _preload; _preload()")


def test_monitor_and_link_load_what_is_allowed_and_nothing_else() -> None:
    found = loaded()
    # Accelerators and private parts come with the module that they belong to.
    tops = {name.partition(".")[0] for name in found - modules_of("pass")}
    assert {name for name in tops if not name.startswith("_")} - {"tinyport"} - STANDARD - BROUGHT == set()
    own = {name.removeprefix("tinyport.") for name in found if name.startswith("tinyport.")}
    assert {name for name in own if "." in name} == OWN


def test_nothing_heavy_is_loaded() -> None:
    assert {name.partition(".")[0] for name in loaded()} & HEAVY == set()


def test_the_forwarding_helper_is_light() -> None:
    found = modules_of("import tinyport.node.forward")
    tops = {name.partition(".")[0] for name in found - modules_of("pass")}
    assert {name for name in tops if not name.startswith("_")} - {"tinyport"} - HELPER_STANDARD - BROUGHT == set()
    own = {name.removeprefix("tinyport.") for name in found if name.startswith("tinyport.")}
    assert {name for name in own if "." in name} == HELPER
    assert tops & HEAVY == set()


def test_the_sftp_server_is_light() -> None:
    found = modules_of("import tinyport.node.sftp")
    tops = {name.partition(".")[0] for name in found - modules_of("pass")}
    assert {name for name in tops if not name.startswith("_")} - {"tinyport"} - SFTP_STANDARD - BROUGHT == set()
    own = {name.removeprefix("tinyport.") for name in found if name.startswith("tinyport.")}
    assert {name for name in own if "." in name} == SFTP
