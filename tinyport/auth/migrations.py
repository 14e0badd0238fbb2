"""The database's schema, as named steps in order. A step that was released is never edited; a change is a new step."""

from __future__ import annotations

from tinyport.core.errors import OperatorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tinyport.auth.store import Database

_START = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE authorities (
    id INTEGER PRIMARY KEY, type TEXT NOT NULL CHECK (type IN ('user', 'host', 'tls', 'policy')),
    private TEXT NOT NULL, public TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE roles (name TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE users (
    name TEXT PRIMARY KEY, roles TEXT NOT NULL, traits TEXT NOT NULL, password TEXT, created REAL NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0, locked_until REAL NOT NULL DEFAULT 0) WITHOUT ROWID;
-- Outlives its user: a certificate that a removed user still holds must stay refused.
CREATE TABLE refuse_before (user TEXT PRIMARY KEY, before INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE invitations (
    id TEXT PRIMARY KEY, digest TEXT NOT NULL, user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    expires REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX invitations_user ON invitations (user);
CREATE TABLE tokens (
    id TEXT PRIMARY KEY, digest TEXT NOT NULL, type TEXT NOT NULL, created REAL NOT NULL, expires REAL NOT NULL,
    uses INTEGER NOT NULL, used INTEGER NOT NULL DEFAULT 0 CHECK (used <= uses), labels TEXT NOT NULL,
    name_template TEXT NOT NULL, cidr TEXT NOT NULL, pending INTEGER NOT NULL) WITHOUT ROWID;
-- Nodes and proxies share one table because they share one space of names: both are SSH host principals.
CREATE TABLE nodes (
    uuid TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL UNIQUE, ssh_key BLOB NOT NULL UNIQUE,
    state TEXT NOT NULL, labels TEXT NOT NULL, token TEXT NOT NULL, created REAL NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0, issued_generation INTEGER NOT NULL DEFAULT 0,
    last_seen REAL NOT NULL DEFAULT 0, addresses TEXT NOT NULL DEFAULT '[]',
    declared_labels TEXT NOT NULL DEFAULT '{}', peer TEXT NOT NULL DEFAULT '', version TEXT NOT NULL DEFAULT '',
    document_serial INTEGER NOT NULL DEFAULT 0, content TEXT NOT NULL DEFAULT '',
    signed TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE TABLE certificates (
    serial INTEGER PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, fingerprint TEXT NOT NULL,
    tls_serial TEXT NOT NULL, generation INTEGER NOT NULL, issued REAL NOT NULL, valid_before REAL NOT NULL);
CREATE INDEX certificates_tls ON certificates (tls_serial);
CREATE INDEX certificates_end ON certificates (valid_before);
CREATE TABLE locks (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, value TEXT NOT NULL, expires REAL, message TEXT NOT NULL,
    created REAL NOT NULL, created_by TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE config (name TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE policy (
    one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL, serial INTEGER NOT NULL,
    content TEXT NOT NULL, signed TEXT NOT NULL);
CREATE TABLE audit (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, event TEXT NOT NULL, user TEXT, node TEXT, hash TEXT NOT NULL,
    body TEXT NOT NULL);
CREATE INDEX audit_user ON audit (user, id);
CREATE INDEX audit_node ON audit (node, id);
CREATE INDEX audit_event ON audit (event, id);
CREATE TRIGGER audit_stays BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
CREATE TRIGGER audit_holds BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
CREATE TABLE audit_head (
    one INTEGER PRIMARY KEY CHECK (one = 1), id INTEGER NOT NULL, hash TEXT NOT NULL, signed TEXT NOT NULL);
CREATE TABLE event_batches (
    sender TEXT NOT NULL, batch TEXT NOT NULL, received REAL NOT NULL, accepted INTEGER NOT NULL,
    PRIMARY KEY (sender, batch)) WITHOUT ROWID;
CREATE TABLE sessions (
    node_uuid TEXT NOT NULL, sid TEXT NOT NULL, started REAL NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (node_uuid, sid)) WITHOUT ROWID;
"""

_SECOND_FACTORS = """
CREATE TABLE factors (
    id TEXT PRIMARY KEY, user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE, name TEXT NOT NULL,
    secret BLOB NOT NULL, created REAL NOT NULL, confirmed INTEGER NOT NULL, last_step INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX factors_user ON factors (user);
-- When the person last proved who they are, for logins that are extended without a password.
ALTER TABLE certificates ADD COLUMN proven REAL;
"""

_ROTATIONS = """
ALTER TABLE authorities ADD COLUMN state TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'new'));
CREATE UNIQUE INDEX authorities_one ON authorities (type, state);
CREATE TABLE rotations (
    type TEXT PRIMARY KEY, phase TEXT NOT NULL, started REAL NOT NULL, changed REAL NOT NULL, grace REAL) WITHOUT ROWID;
-- Public halves of what planned rotations have replaced, and the statements that lead from each TLS CA to the next.
CREATE TABLE retired_authorities (
    id INTEGER PRIMARY KEY, type TEXT NOT NULL, public TEXT NOT NULL, retired REAL NOT NULL);
CREATE TABLE successions (id INTEGER PRIMARY KEY, statement TEXT NOT NULL, made REAL NOT NULL);
CREATE INDEX certificates_machines ON certificates (kind, subject, issued);
"""

_WEB_SESSIONS = """
CREATE TABLE web_sessions (
    id TEXT PRIMARY KEY, digest TEXT NOT NULL, user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    proxy TEXT NOT NULL, source TEXT NOT NULL, agent TEXT NOT NULL, created REAL NOT NULL, seen REAL NOT NULL,
    ends REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX web_sessions_user ON web_sessions (user);
"""

_REGISTRATIONS = """
CREATE TABLE registrations (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('key', 'serial')), value TEXT NOT NULL, name TEXT NOT NULL,
    labels TEXT NOT NULL, created REAL NOT NULL, node TEXT, UNIQUE (kind, value)) WITHOUT ROWID;
CREATE INDEX registrations_name ON registrations (name) WHERE node IS NULL;
"""

_TRUSTED_CLUSTERS = """
-- from_file: the configuration file's, which goes when the file does not name it any more.
CREATE TABLE trusted_clusters (
    name TEXT PRIMARY KEY, document TEXT NOT NULL, from_file INTEGER NOT NULL) WITHOUT ROWID;
"""

_RECORDINGS = """
CREATE TABLE recordings (
    id TEXT PRIMARY KEY, node_uuid TEXT NOT NULL, node TEXT NOT NULL, user TEXT NOT NULL, login TEXT NOT NULL,
    kind TEXT NOT NULL, started REAL NOT NULL, ended REAL, seconds REAL NOT NULL, shown INTEGER NOT NULL,
    lost INTEGER NOT NULL, size INTEGER NOT NULL, state TEXT NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX recordings_started ON recordings (started, id);
CREATE INDEX recordings_user ON recordings (user, started);
CREATE INDEX recordings_node ON recordings (node_uuid, started);
CREATE INDEX recordings_live ON recordings (node_uuid) WHERE state = 'live';
"""

_ONLINE = """
-- online: as auth last wrote it down. meta's online_at says until when at least.
ALTER TABLE nodes ADD COLUMN online INTEGER NOT NULL DEFAULT 0;
"""

# A token by which a device takes a node's place, and since when that node's certificates are another device's.
_REPLACING = """
ALTER TABLE tokens ADD COLUMN replaces TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN since REAL NOT NULL DEFAULT 0;
"""

# The key for which somebody logged in, of certificates that were issued for another one since; '' for the same.
_DEVICES = """
ALTER TABLE certificates ADD COLUMN device TEXT NOT NULL DEFAULT '';
"""

# Second devices with a node's identity. instances: the node's last processes, [[instance, first heard], ...].
_COPIES = """
ALTER TABLE nodes ADD COLUMN instances TEXT NOT NULL DEFAULT '[]';
ALTER TABLE tokens ADD COLUMN copy TEXT NOT NULL DEFAULT '';
CREATE TABLE copies (
    id TEXT PRIMARY KEY, node TEXT NOT NULL REFERENCES nodes (uuid) ON DELETE CASCADE, instance TEXT NOT NULL,
    found REAL NOT NULL, seen REAL NOT NULL, peer TEXT NOT NULL, split TEXT NOT NULL DEFAULT '',
    became TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE INDEX copies_node ON copies (node);
"""

# What audit_retention removed up to, signed. The triggers let nothing go of which no checkpoint tells.
_CHECKPOINTS = """
CREATE TABLE audit_checkpoints (
    id INTEGER PRIMARY KEY, hash TEXT NOT NULL, time REAL NOT NULL, signed TEXT NOT NULL);
CREATE TRIGGER checkpoints_stay BEFORE DELETE ON audit_checkpoints BEGIN SELECT RAISE(ABORT, 'checkpoints stay'); END;
CREATE TRIGGER checkpoints_hold BEFORE UPDATE ON audit_checkpoints BEGIN SELECT RAISE(ABORT, 'checkpoints stay'); END;
DROP TRIGGER audit_stays;
CREATE TRIGGER audit_stays BEFORE DELETE ON audit WHEN OLD.id > (SELECT coalesce(max(id), 0) FROM audit_checkpoints)
    BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
"""

# Boards by their serial numbers. serial: as the device said when it joined; twin: UUID of the node that it may be.
_BOARDS = """
ALTER TABLE nodes ADD COLUMN serial TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN twin TEXT NOT NULL DEFAULT '';
ALTER TABLE tokens ADD COLUMN serials TEXT NOT NULL DEFAULT '[]';
CREATE INDEX nodes_serial ON nodes (serial) WHERE serial <> '';
CREATE INDEX registrations_node ON registrations (node) WHERE node IS NOT NULL;
"""

# What nodes cost on the wire, see store_traffic.
_TRAFFIC = """
CREATE TABLE traffic_days (
    day INTEGER NOT NULL, node TEXT NOT NULL, bytes INTEGER NOT NULL, told INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (day, node)) WITHOUT ROWID;
CREATE TABLE traffic_months (
    month INTEGER NOT NULL, node TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (month, node)) WITHOUT ROWID;
CREATE TABLE traffic_meters (
    node TEXT NOT NULL, proxy TEXT NOT NULL, bytes INTEGER NOT NULL, since REAL NOT NULL,
    PRIMARY KEY (node, proxy)) WITHOUT ROWID;
"""

MIGRATIONS: tuple[tuple[str, str], ...] = (
    ("0001-start", _START),
    ("0002-second-factors", _SECOND_FACTORS),
    ("0003-rotations", _ROTATIONS),
    ("0004-web-sessions", _WEB_SESSIONS),
    ("0005-registrations", _REGISTRATIONS),
    ("0006-trusted-clusters", _TRUSTED_CLUSTERS),
    ("0007-recordings", _RECORDINGS),
    ("0008-online", _ONLINE),
    ("0009-replacing", _REPLACING),
    ("0010-devices", _DEVICES),
    ("0011-copies", _COPIES),
    ("0012-audit-checkpoints", _CHECKPOINTS),
    ("0013-boards", _BOARDS),
    ("0014-traffic", _TRAFFIC),
)


def statements(script: str) -> list[str]:
    """The statements of a step, one by one: sqlite3's own ``executescript`` would commit in their middle."""
    found, piece = [], ""
    for line in script.strip().splitlines():
        if line.startswith("--"):
            continue
        piece += line + "\n"
        # A trigger's body holds semicolons of its own, but ends on its line.
        if line.rstrip().endswith(";"):
            found.append(piece.strip())
            piece = ""
    if piece.strip():
        found.append(piece.strip())
    return found


async def migrate(database: Database, now: float, migrations: tuple[tuple[str, str], ...] = MIGRATIONS) -> list[str]:
    """Bring the database to the newest schema; the names of the steps that were made.

    Each step and the note that it was made are one transaction: killed at any moment, a step was made or it was not.
    OperatorError when the database knows steps that this version does not.
    """
    await database.run(
        "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, applied REAL NOT NULL) WITHOUT ROWID"
    )
    applied = {str(row["name"]) for row in await database.all("SELECT name FROM migrations")}
    unknown = applied - {name for name, _ in migrations}
    if unknown:
        raise OperatorError(
            f"the database was made by a newer tinyport: it has {', '.join(sorted(unknown))}",
            hint="install that version again, or restore a backup from before the upgrade",
        )
    made = []
    for name, script in migrations:
        if name in applied:
            continue
        async with database.transaction():
            for statement in statements(script):
                await database.run(statement)
            await database.run("INSERT INTO migrations VALUES (?, ?)", name, now)
        made.append(name)
    return made
