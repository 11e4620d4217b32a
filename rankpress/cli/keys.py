"""`rankpress keys`: the operator makes, lists and revokes API keys, beside the service's store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rankpress.service.store import Store

keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@keys.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose uploads and jobs the key sees.")] = "default",
    role: Annotated[str, typer.Option(help="read, submit or admin.")] = "submit",
    note: Annotated[str, typer.Option(help="For the list: who has the key.")] = "",
) -> None:
    """Make a key and print it. It is shown this once."""
    from rankpress.service import api_keys

    if role not in list(api_keys.Role):
        raise typer.BadParameter(f"{role!r}; choose read, submit or admin", param_hint="--role")
    try:
        token, record = api_keys.create(
            _store(), tenant=tenant, role=api_keys.Role(role), note=note
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--tenant") from error
    typer.echo(
        f"key {record.id} for tenant {tenant}, role {role}; it is not shown again:", err=True
    )
    typer.echo(token)


@keys.command("list")
def list_keys() -> None:
    """Print every key's id, tenant, role and state."""
    from rankpress.service import api_keys

    for key in api_keys.every(_store()):
        state = "active" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d}"
        fields = (key.id, key.tenant, key.role, f"{key.created_at:%Y-%m-%d}", state, key.note)
        typer.echo("  ".join(fields).rstrip())


@keys.command()
def revoke(key_id: Annotated[str, typer.Argument(help="The id, as `list` shows it.")]) -> None:
    """End a key. It stops working within seconds."""
    from rankpress.errors import NotFound
    from rankpress.service import api_keys

    try:
        record = api_keys.revoke(_store(), key_id)
    except NotFound as error:
        raise typer.BadParameter(error.detail, param_hint="KEY_ID") from error
    typer.echo(f"key {record.id} of tenant {record.tenant} is revoked", err=True)


def _store() -> Store:
    """The service's own, by the same variables."""
    from rankpress.service.settings import Settings
    from rankpress.service.store import Store

    return Store(Settings().store_url)
