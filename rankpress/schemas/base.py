"""The two bases: what callers send is strict, what the service answers may grow."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An answer or a message between processes. Unknown fields are ignored, so that an older
    client reads a newer server."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")


class Strict(BaseModel):
    """What a caller sends. An unknown field is an error, since it is most often a typing error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
