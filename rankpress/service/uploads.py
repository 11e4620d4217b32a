"""Uploads in the store: the bytes, and the record that makes them exist."""

from rankpress.errors import NotFound
from rankpress.schemas.upload import Upload
from rankpress.service import keys
from rankpress.service.store import Missing, Store


def load(store: Store, tenant: str, upload_id: str) -> Upload:
    """Raises `NotFound` for an unknown id, another tenant's included."""
    try:
        return store.get_model(keys.upload_record(tenant, upload_id), Upload)
    except Missing as error:
        raise NotFound(f"no upload {upload_id!r}") from error


def commit(store: Store, tenant: str, upload: Upload) -> None:
    """Writes the record, last: from here on the upload exists."""
    store.put_model(keys.upload_record(tenant, upload.id), upload)


def delete(store: Store, tenant: str, upload_id: str) -> None:
    """The record first, so that nothing points at bytes that are going away."""
    store.delete(
        keys.upload_record(tenant, upload_id),
        keys.partial_record(tenant, upload_id),
        keys.upload_data(tenant, upload_id),
    )
    store.delete_prefix(keys.upload_parts(tenant, upload_id))
