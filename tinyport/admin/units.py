"""The systemd units: the files in packaging/systemd, and what ``tinyport install`` writes, come from here."""

from __future__ import annotations

from collections.abc import Sequence

NODE, SERVER = "tinyport-node.service", "tinyport-server.service"
PROGRAM = "/usr/bin/tinyport"
CONFIGURATION = "/etc/tinyport/tinyport.toml"
#: the account of auth and proxy, and of what faces the network on a node
ACCOUNT = "tinyport"
#: of the node's workers alone
WORKER_ACCOUNT = "tinyport-worker"

_NODE = """\
[Unit]
Description=tinyport node: SSH to this machine by certificate
After=network.target nss-user-lookup.target
ConditionPathExists={configuration}

[Service]
# Not "notify": a device that cannot reach its cluster yet must not hold up the boot.
Type=exec
NotifyAccess=main
ExecStart={program} start --roles=node -c {configuration}
# The node would refuse a wrong file, too; this way "systemctl reload" says so.
ExecReload={program} check-config {configuration}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=2
# Sessions outlive a restart: their keeper stays and finds the next monitor. When the machine goes down they end first.
KillMode=process
# No sandbox here: whatever this unit may not do, the shells of those who log in may not do either (no sudo, say).
# What faces the network drops its privileges itself.

[Install]
WantedBy=multi-user.target
"""

_SERVER = """\
[Unit]
Description=tinyport server: {roles} of a cluster
After=network-online.target
Wants=network-online.target
ConditionPathExists={configuration}

[Service]
Type=notify
NotifyAccess=main
# A proxy on a machine of its own waits for auth as long as it takes.
TimeoutStartSec=infinity
ExecStart={program} start --roles={roles} -c {configuration}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=2
User={account}
{folders}
StateDirectoryMode=0700
UMask=0077
# Each connection is a file descriptor.
LimitNOFILE=65536
# Ports below 1024, and nothing else.
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
PrivateTmp=yes
PrivateDevices=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def units(roles: Sequence[str], program: str = PROGRAM, configuration: str = CONFIGURATION) -> dict[str, str]:
    """The units for a machine with these roles: file name → text. ``program``, ``configuration``: absolute paths
    without characters that systemd would take for its own.
    """
    found: dict[str, str] = {}
    server = [role for role in roles if role != "node"]
    if server:
        # Below /var/lib/tinyport, which stays root's: a node on the same machine keeps its identity there, too.
        folders = f"StateDirectory={' '.join(f'tinyport/{role}' for role in server)}"
        found[SERVER] = _SERVER.format(
            roles=",".join(server), program=program, configuration=configuration, account=ACCOUNT, folders=folders
        )
    if "node" in roles:
        found[NODE] = _NODE.format(program=program, configuration=configuration)
    return found
