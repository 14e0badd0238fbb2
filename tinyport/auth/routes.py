"""The route table: every route, who may call it, and by which rule. A test walks it with every kind of caller."""

from __future__ import annotations

from tinyport.auth import (
    api_audit,
    api_backup,
    api_cluster,
    api_copies,
    api_events,
    api_factors,
    api_join,
    api_locks,
    api_login,
    api_nodes,
    api_proxy,
    api_public,
    api_recordings,
    api_registrations,
    api_resources,
    api_rotation,
    api_sessions,
    api_sign,
    api_signup,
    api_tokens,
    api_trusted,
    api_users,
    api_web,
)
from tinyport.auth.callers import ANYONE, LOCAL, NODE, PROXY, USER
from tinyport.auth.web import LARGE, SMALL, Handler, Route

_ANYONE = frozenset((ANYONE,))
_MACHINES = frozenset((NODE, PROXY))
_PROXY = frozenset((PROXY,))
_ONESELF = frozenset((USER,))
_PEOPLE = frozenset((USER, LOCAL))


def _people(method: str, path: str, handler: Handler, resource: str, *verbs: str) -> Route:
    return Route(method, path, handler, _PEOPLE, (resource, verbs))


def _resource_routes() -> tuple[Route, ...]:
    routes = []
    for name, kind in api_resources.KINDS.items():
        all_of, one = f"/v1/resources/{name}", f"/v1/resources/{name}/{{name}}"
        routes += [
            _people("GET", all_of, api_resources.list_of(name), kind.resource, "read"),
            _people("GET", one, api_resources.get_of(name), kind.resource, "read"),
            _people("PUT", one, api_resources.put_of(name), kind.resource, "create", "update"),
            _people("DELETE", one, api_resources.delete_of(name), kind.resource, "delete"),
        ]
    return tuple(routes)


ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/hello", api_public.hello, _ANYONE),
    Route("GET", "/v1/time", api_public.time, _ANYONE),
    Route("POST", "/v1/join", api_join.join_route, _ANYONE, limit=SMALL),
    Route("POST", "/v1/boot", api_join.boot_route, _ANYONE, limit=SMALL),
    Route("POST", "/v1/return", api_join.return_route, _ANYONE, limit=SMALL),
    Route("POST", "/v1/login", api_login.login, _ANYONE, limit=SMALL),
    Route("POST", "/v1/login/extend", api_login.extend, _ONESELF, limit=SMALL),
    Route("POST", "/v1/signup", api_signup.signup, _ANYONE, limit=SMALL),
    Route("POST", "/v1/invitation", api_signup.invitation, _ANYONE, limit=SMALL),
    Route("POST", "/v1/renew", api_join.renew_route, _MACHINES, limit=SMALL),
    Route("POST", "/v1/here", api_copies.here, frozenset((NODE,)), limit=SMALL),
    # A locked machine may still learn that it is, and report what happened on it.
    Route("GET", "/v1/policy", api_events.policy, _MACHINES, when_locked=True),
    Route("POST", "/v1/events", api_events.take_events, _MACHINES, when_locked=True),
    Route("GET", "/v1/watch", api_proxy.watch, _PROXY),
    Route("POST", "/v1/presence", api_proxy.presence, _PROXY, limit=LARGE),
    Route("POST", "/v1/access", api_proxy.access, _PROXY),
    Route("POST", "/v1/access/nodes", api_proxy.access_nodes, _PROXY),
    # In the name of somebody with a browser, who proves here who they are.
    Route("POST", "/v1/web/login", api_web.login, _PROXY, limit=SMALL),
    Route("POST", "/v1/web/renew", api_web.renew, _PROXY, limit=SMALL),
    Route("POST", "/v1/web/logout", api_web.logout, _PROXY, limit=SMALL),
    Route("POST", "/v1/web/invitation", api_web.invitation, _PROXY, limit=SMALL),
    Route("POST", "/v1/web/signup", api_web.signup, _PROXY, limit=SMALL),
    # One's own; those of others by the rules about users.
    Route("GET", "/v1/web/sessions", api_web.list_sessions, _PEOPLE),
    Route("DELETE", "/v1/web/sessions/{id}", api_web.delete_session, _PEOPLE),
    # What of it users see is decided node by node.
    Route("GET", "/v1/nodes", api_nodes.list_nodes, _MACHINES | _PEOPLE),
    Route("GET", "/v1/clusters", api_trusted.clusters_to_go_to, _PEOPLE),
    _people("GET", "/v1/status", api_cluster.status, "status", "read"),
    _people("GET", "/v1/figures", api_cluster.figures, "status", "read"),
    _people("GET", "/v1/nodes/{id}", api_nodes.show_node, "nodes", "read"),
    _people("PATCH", "/v1/nodes/{id}", api_nodes.update_node, "nodes", "update"),
    _people("DELETE", "/v1/nodes/{id}", api_nodes.delete_node, "nodes", "delete"),
    _people("POST", "/v1/nodes/{id}/accept", api_nodes.accept_node, "nodes", "update"),
    _people("POST", "/v1/nodes/{id}/split", api_copies.split_node, "tokens", "create"),
    _people("POST", "/v1/nodes/{id}/reject", api_nodes.reject_node, "nodes", "delete"),
    _people("GET", "/v1/users", api_users.list_users, "users", "read"),
    _people("POST", "/v1/users", api_users.add_user, "users", "create"),
    _people("PATCH", "/v1/users/{name}", api_users.update_user, "users", "update"),
    _people("DELETE", "/v1/users/{name}", api_users.delete_user, "users", "delete"),
    _people("POST", "/v1/users/{name}/reset", api_users.reset_user, "users", "update"),
    _people("POST", "/v1/users/{name}/unlock", api_users.unlock_user, "users", "update"),
    _people("GET", "/v1/tokens", api_tokens.list_tokens, "tokens", "read"),
    _people("POST", "/v1/tokens", api_tokens.add_token, "tokens", "create"),
    _people("DELETE", "/v1/tokens/{id}", api_tokens.delete_token, "tokens", "delete"),
    _people("GET", "/v1/registrations", api_registrations.list_registrations, "tokens", "read"),
    _people("POST", "/v1/registrations", api_registrations.add_registrations, "tokens", "create"),
    _people("DELETE", "/v1/registrations/{id}", api_registrations.delete_registration, "tokens", "delete"),
    _people("GET", "/v1/locks", api_locks.list_locks, "locks", "read"),
    _people("POST", "/v1/locks", api_locks.add_lock, "locks", "create"),
    _people("DELETE", "/v1/locks/{id}", api_locks.delete_lock, "locks", "delete"),
    _people("GET", "/v1/audit", api_audit.audit, "audit", "read"),
    _people("GET", "/v1/audit/head", api_audit.audit_head, "audit", "read"),
    _people("GET", "/v1/audit/hash", api_audit.audit_hash, "audit", "read"),
    _people("GET", "/v1/audit/export", api_audit.export, "audit", "read"),
    # It holds every private key of the cluster: for whoever can read the database anyway.
    Route("POST", "/v1/backup", api_backup.backup, frozenset((LOCAL,))),
    _people("GET", "/v1/ca", api_cluster.authorities, "cas", "read"),
    _people("POST", "/v1/rotation", api_rotation.rotate_route, "cas", "update"),
    # Every certificate of the cluster ends with it, that of whoever asks among them.
    Route("POST", "/v1/rotation/compromised", api_rotation.compromised_route, frozenset((LOCAL,))),
    _people("POST", "/v1/sign", api_sign.sign, "certificates", "sign"),
    _people("POST", "/v1/explain", api_cluster.explain, "users", "read"),
    # Whoever has no rule sees what they began, or may join.
    Route("GET", "/v1/sessions", api_sessions.list_sessions, _PEOPLE),
    _people("DELETE", "/v1/sessions/{id}", api_sessions.end_session, "sessions", "delete"),
    # One of the verbs is for one's own alone.
    _people("GET", "/v1/recordings", api_recordings.list_recordings, "recordings", "read", "list", "read_own"),
    _people("GET", "/v1/recordings/{id}", api_recordings.read_recording, "recordings", "read", "read_own"),
    _people("DELETE", "/v1/recordings/{id}", api_recordings.delete_recording, "recordings", "delete"),
    Route(
        "POST",
        "/v1/recordings/{id}",
        api_recordings.take_recording,
        frozenset((NODE,)),
        limit=api_recordings.MAX_SENT,
        when_locked=True,
        takes_bytes=True,
    ),
    # One's own: no rule is needed.
    Route("GET", "/v1/mfa", api_factors.list_factors, _ONESELF),
    Route("POST", "/v1/mfa", api_factors.begin_factor, _ONESELF, limit=SMALL),
    Route("POST", "/v1/mfa/session", api_factors.session_certificate, _ONESELF, limit=SMALL),
    Route("POST", "/v1/mfa/{id}/confirm", api_factors.confirm_factor, _ONESELF, limit=SMALL),
    Route("POST", "/v1/mfa/{id}/remove", api_factors.remove_factor, _ONESELF, limit=SMALL),
    *_resource_routes(),
)
