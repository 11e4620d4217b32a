"""API keys: who may call, for which tenant, and what.

A key is `rp_<id>_<secret>`. The store keeps a record by id with the SHA-256 of the secret, which
has 256 random bits, so that a slow hash would add nothing. A key is shown once, when it is made.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime
from enum import StrEnum

from rankpress.errors import NotFound
from rankpress.schemas.base import Frozen
from rankpress.service.store import Missing, Store

PREFIX = "api-keys"
_TOKEN = re.compile(r"rp_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_ID = re.compile(r"[0-9a-f]{16}")
TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Role(StrEnum):
    """Each may do what the one before may."""

    READ = "read"  # look and download
    SUBMIT = "submit"  # upload, submit, cancel and delete as well
    ADMIN = "admin"  # the service's metrics as well

    @property
    def rank(self) -> int:
        return list(Role).index(self)

    def may(self, needed: Role) -> bool:
        return self.rank >= needed.rank


class ApiKey(Frozen):
    """What is kept of a key: enough to recognise it, not to use it."""

    id: str
    tenant: str
    role: Role
    secret_sha256: str
    note: str = ""
    created_at: datetime
    revoked_at: datetime | None = None


def create(store: Store, *, tenant: str, role: Role, note: str = "") -> tuple[str, ApiKey]:
    """The key itself, which is kept nowhere, and its record. Raises ValueError for a tenant's
    name that could not stand in a path."""
    if not TENANT.fullmatch(tenant):
        raise ValueError("a tenant's name has 1 to 64 of A-Z a-z 0-9 _ -")
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    record = ApiKey(
        id=key_id,
        tenant=tenant,
        role=role,
        secret_sha256=_digest(secret),
        note=note,
        created_at=datetime.now(UTC),
    )
    store.put_model(_place(key_id), record)
    return f"rp_{key_id}_{secret}", record


def every(store: Store) -> list[ApiKey]:
    """All records, the revoked ones too, in the order they were made."""
    found = [store.get_model(info.key, ApiKey) for info in list(store.list(PREFIX))]
    return sorted(found, key=lambda key: key.created_at)


def any_exists(store: Store) -> bool:
    """Whether keys are in use. A revoked one counts: revoking the last key must not open the
    service to everyone."""
    return next(iter(store.list(PREFIX)), None) is not None


def revoke(store: Store, key_id: str) -> ApiKey:
    """Raises `NotFound`."""
    record = find(store, key_id)
    if record is None:
        raise NotFound(f"no key {key_id!r}")
    if record.revoked_at is None:
        record = record.model_copy(update={"revoked_at": datetime.now(UTC)})
        store.put_model(_place(key_id), record)
    return record


def find(store: Store, key_id: str) -> ApiKey | None:
    if not _ID.fullmatch(key_id):
        return None
    try:
        return store.get_model(_place(key_id), ApiKey)
    except Missing:
        return None


def split(token: str) -> tuple[str, str] | None:
    """Id and secret of a key, None for what is none."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else (match[1], match[2])


def matches(record: ApiKey | None, secret: str) -> bool:
    """In constant time, also when there is no such record."""
    expected = record.secret_sha256 if record is not None else _digest("")
    same = hmac.compare_digest(_digest(secret), expected)
    return same and record is not None and record.revoked_at is None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _place(key_id: str) -> str:
    return f"{PREFIX}/{key_id}.json"
