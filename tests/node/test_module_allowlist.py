"""What the node's processes may load. Each module more is memory on every device, for as long as it is on."""

from __future__ import annotations

import json
import subprocess
import sys

from tinyport.core.signatures import Ed25519Key
from tinyport.node.python_process import arguments, light_arguments, package_root, search_path

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
        "termios",
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
        "host.boot",
        "host.files",
        "host.identity_before",
        "host.logging_line",
        "host.locked_memory",
        "host.privileges",
        "host.sd_notify",
        "host.shutting_down",
        "host.tls",
        "link.dial_notice",
        "link.front_relay",
        "link.http_proxy",
        "link.httphead",
        "link.inside_http",
        "link.tlsstream",
        "link.websocket",
        "node.confinement",
        "node.generations",
        "node.identity_view",
        "node.ipc",
        "node.link.labels",
        "node.link.link",
        "node.link.connect",
        "node.link.dial",
        "node.link.documents",
        "node.link.events",
        "node.link.generations",
        "node.link.here",
        "node.link.inherited",
        "node.link.keeper",
        "node.link.listen",
        "node.link.penalties",
        "node.link.places",
        "node.link.probation",
        "node.link.recordings",
        "node.link.tunnel",
        "node.link.tunnels",
        "node.loop",
        "node.monitor.monitor",
        "node.monitor.generations",
        "node.monitor.keeper",
        "node.monitor.link",
        "node.monitor.listen",
        "node.monitor.reached",
        "node.monitor.reload",
        "node.monitor.renewal",
        "node.monitor.status",
        "node.python_process",
        "node.link.spool",
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
        "node.forward.forward",
        "node.forward.connect",
        "node.forward.listen",
        "node.forward.x11",
        "node.ipc",
        "node.loop",
        "node.python_process",
    }
)
HELPER_STANDARD = STANDARD - {"base64", "binascii", "hashlib", "ssl", "warnings", "zlib"}

#: of the sftp server, of which there is one for each session that moves files
SFTP = frozenset(
    {
        "node.sftp.sftp",
        "node.sftp.attributes",
        "node.sftp.extensions",
        "node.sftp.handles",
        "node.sftp.listing",
        "node.sftp.operations",
        "node.sftp.owners",
        "node.sftp.paths",
        "node.sftp.requests",
        "node.sftp.root",
        "node.sftp.stream",
        "node.sftp.wire",
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
    return modules_of("from tinyport.node.monitor.monitor import _preload; _preload()")


def ours(found: set[str]) -> set[str]:
    """Our own modules among ``found``, without the packages that they lie in."""
    own = {name.removeprefix("tinyport.") for name in found if name.startswith("tinyport.")}
    return {name for name in own if not any(other.startswith(f"{name}.") for other in own)}


def test_monitor_and_link_load_what_is_allowed_and_nothing_else() -> None:
    found = loaded()
    # Accelerators and private parts come with the module that they belong to.
    tops = {name.partition(".")[0] for name in found - modules_of("pass")}
    assert {name for name in tops if not name.startswith("_")} - {"tinyport"} - STANDARD - BROUGHT == set()
    assert ours(found) == OWN


def test_nothing_heavy_is_loaded() -> None:
    assert {name.partition(".")[0] for name in loaded()} & HEAVY == set()


def test_the_forwarding_helper_is_light() -> None:
    found = modules_of("import tinyport.node.forward.forward")
    tops = {name.partition(".")[0] for name in found - modules_of("pass")}
    assert {name for name in tops if not name.startswith("_")} - {"tinyport"} - HELPER_STANDARD - BROUGHT == set()
    assert ours(found) == HELPER
    assert tops & HEAVY == set()


def test_the_sftp_server_is_light() -> None:
    found = modules_of("import tinyport.node.sftp.sftp")
    tops = {name.partition(".")[0] for name in found - modules_of("pass")}
    assert {name for name in tops if not name.startswith("_")} - {"tinyport"} - SFTP_STANDARD - BROUGHT == set()
    assert ours(found) == SFTP


#: what a keeper has no use for, or only in a session that wants it; 4 MB together
NOT_IN_KEEPER = frozenset(
    {
        "asyncio",
        "asyncssh",
        "bcrypt",
        "cryptography.hazmat.primitives.serialization",
        "cryptography.x509",
        "difflib",
        "getopt",
        "logging",
        "lzma",
        "pathlib",
        "platform",
        "random",
        "shlex",
        "shutil",
        "ssl",
        "tempfile",
        "tinyport.core.config",
        "tinyport.node.sftp.requests",
        "urllib",
    }
)


def whole_modules_of(code: str) -> set[str]:
    """As ``modules_of``, on the path that keepers and workers have."""
    argv = arguments("tinyport", search_path(), call="")
    argv[-1] = f"import sys; sys.path[:] = {search_path()!r}; {code}; print(' '.join(map(str, sys.modules)))"
    done = subprocess.run(argv, capture_output=True, check=True, timeout=60, text=True)
    return set(done.stdout.split())


def test_the_keeper_has_what_it_needs_and_no_more() -> None:
    key = Ed25519Key.generate().to_openssh()
    code = "from tinyport.node.keeper.process import load; load()"
    code += f"; from tinyport.core import signatures as s; k = s.Ed25519Key.from_openssh({key!r})"
    code += "; s.verify(k.public_blob, b'x', k.sign(b'x'))"
    found = whole_modules_of(code)
    assert found & NOT_IN_KEEPER == set()
    if sys.version_info < (3, 12):
        # From then on dataclasses use inspect.
        assert found & {"ast", "dis", "tokenize"} == set()


def test_a_worker_offers_the_same_with_and_without_what_it_leaves_out() -> None:
    show = (
        "from tinyport.node.worker.options import make_options; import asyncssh, json; "
        "o = make_options(asyncssh.SSHServer, 60.0, 60.0); "
        "names = ('kex_algs', 'encryption_algs', 'mac_algs', 'compression_algs'); "
        "print(json.dumps([[a.decode() for a in getattr(o, n)] for n in names]))"
    )
    lean = f"from tinyport.node.worker.process import leave_out; leave_out(); {show}"
    offered = []
    for code in (show, lean):
        argv = arguments("tinyport", search_path(), call="")
        argv[-1] = f"import sys; sys.path[:] = {search_path()!r}; {code}"
        done = subprocess.run(argv, capture_output=True, check=True, timeout=60, text=True)
        offered.append(json.loads(done.stdout))
    assert offered[0] == offered[1]
    assert all(offered[0])
    found = whole_modules_of(f"{lean}; [sys.modules.pop(n) for n, m in list(sys.modules.items()) if m is None]")
    assert found & {"argparse", "bcrypt", "cryptography.x509", "fido2", "gssapi", "pkcs11"} == set()
