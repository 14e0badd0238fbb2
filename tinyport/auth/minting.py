"""Making join tokens: an id, a secret that is kept nowhere, and a line in the audit log."""

from __future__ import annotations

import secrets
from dataclasses import replace

from tinyport.auth.service import Service
from tinyport.auth.store import WriteTables
from tinyport.auth.store_tokens import TokenRow
from tinyport.core import tokens


async def make_token(service: Service, tables: WriteTables, wanted: TokenRow, by: str) -> tuple[TokenRow, str]:
    """``wanted`` with an id and a secret of its own, written down; and the token's text, which is kept nowhere."""
    text = tokens.new(secrets.token_bytes(tokens.ID_BYTES), secrets.token_bytes(tokens.SECRET_BYTES))
    id, secret = tokens.split(text)
    row = replace(wanted, id=id, digest=tokens.digest(secret), created=service.now())
    await tables.tokens.add(row)
    await service.audit.record(
        tables,
        "token.create",
        token=id,
        type=row.type,
        by=by,
        expires=row.expires,
        uses=row.uses,
        labels=dict(row.labels) or None,
        replaces=row.replaces or None,
    )
    return row, text
