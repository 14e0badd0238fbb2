"""Why: the access decision told step by step. The verdict is ``core.access``'s own, on a certificate as a login at this
moment would give; the steps say what it saw."""

from __future__ import annotations

import secrets
from dataclasses import replace

from tinyport.auth.policy_issuer import node_document
from tinyport.auth.reaching import check_online
from tinyport.auth.refusals import not_found
from tinyport.auth.service import Service
from tinyport.auth.store_nodes import NodeRow
from tinyport.auth.store_users import UserRow
from tinyport.core.access import decide, judge_certificate
from tinyport.core.certificate import Certificate
from tinyport.core.errors import AccessDenied, TinyportError
from tinyport.core.issue import issue_user_certificate
from tinyport.core.names import is_uuid
from tinyport.core.policy import Policy
from tinyport.core.rights import Rights, allowed_logins, permits, sftp_terms
from tinyport.core.roles import Role
from tinyport.core.session_terms import SOURCES, describe, of_roles
from tinyport.core.sftp_terms import UNBOUND
from tinyport.core.signatures import Ed25519Key


async def explain_access(service: Service, user_name: str, login: str, target: str) -> tuple[str, list[str]]:
    """("allowed" or "denied", the steps). PeerError when there is no such user or node."""
    rows = service.store.read
    user = await rows.users.get(user_name)
    if user is None:
        raise not_found("user", user_name)
    short = target.lower().removesuffix(f".{service.cluster}")
    node = await (rows.nodes.get(short) if is_uuid(short) else rows.nodes.by_name(short))
    if node is None or node.kind != "node":
        raise not_found("node", target)
    policy = service.issuer.policy
    steps = [f"user {user.name} has the roles {', '.join(user.roles) or 'none'}"]
    roles: list[Role] = []
    for name in user.roles:
        if name not in policy.roles:
            return "denied", [*steps, f"role {name} does not exist: everything is refused"]
        roles.append(policy.roles[name])
    labels = ", ".join(f"{key}={value}" for key, value in sorted(node.labels.items())) or "no labels"
    steps.append(f"node {node.name} is {node.state} and has {labels}")
    logins = allowed_logins(roles, user.name, user.traits)
    steps.append(f"a login now would give the logins {', '.join(logins) or 'none, so no certificate at all'}")
    steps += [_role_step(role, user, login, node) for role in roles]
    try:
        _judge(service, policy, user, roles, logins, login, node)
    except AccessDenied as error:
        return "denied", [*steps, f"denied: {error.message}" + (f" ({error.detail})" if error.detail else "")]
    steps.append(f"allowed: {', '.join(sorted(permits(roles)))}")
    terms = sftp_terms(roles, user.name, user.traits)
    if terms != UNBOUND:
        words = ["read-only"] if terms.read_only else []
        words += [f"in {terms.root}"] if terms.root else []
        steps.append(f"file transfer: {terms.refusal or ' '.join(words)}")
    limits = of_roles((role.name, role.options) for role in roles).and_also(policy.session_terms)
    steps += describe(limits)
    try:
        check_online(service, node)
    except TinyportError as error:
        steps.append(f"but: {error.message}")
    return "allowed", steps


def _role_step(role: Role, user: UserRow, login: str, node: NodeRow) -> str:
    alone = Rights([role], user.name, user.traits).on(node.labels)
    if alone.denying(login) is not None:
        return f"role {role.name} denies {login} on {node.name}"
    if alone.allowing(login) is not None:
        return f"role {role.name} allows {login} on {node.name}"
    return f"role {role.name} says nothing about {login} on {node.name}"


def _judge(
    service: Service, policy: Policy, user: UserRow, roles: list[Role], logins: list[str], login: str, node: NodeRow
) -> None:
    if not logins:
        raise AccessDenied(f"user {user.name} has no login on any machine")
    # A trial certificate by a CA of this moment, trusted in a policy of this moment: nothing that could be used.
    trial = Ed25519Key.generate()
    now = max(int(service.now()), int(policy.refuse_before.get(user.name, 0)))
    blob = issue_user_certificate(
        trial,
        public_key=trial.public_blob,
        serial=0,
        nonce=secrets.token_bytes(32),
        cluster=policy.cluster,
        user=user.name,
        logins=logins,
        roles=user.roles,
        traits=user.traits,
        permits=sorted(permits(roles)),
        now=now,
        ttl=3600,
    )
    values = {name: getattr(policy, name) for name in policy.__dataclass_fields__}
    # Where they would come from is not known here: ``_explain`` says which networks there are.
    anywhere = {
        name: replace(role, options={key: value for key, value in role.options.items() if key != SOURCES})
        for name, role in policy.roles.items()
    }
    trusting = Policy(**{**values, "user_cas": (trial.public_blob,), "roles": anywhere})
    subject = judge_certificate(Certificate.decode(blob), policy=trusting, now=now, source=None)
    document = node_document(node.content, policy.epoch, node.document_serial)
    decide(subject, login=login, node=document, policy=policy, now=now)
