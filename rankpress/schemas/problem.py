"""`application/problem+json` (RFC 9457)."""

from pydantic import Field

from rankpress.schemas.base import Frozen


class ProblemItem(Frozen):
    """One fault in the request."""

    pointer: str = Field(description="JSON pointer (RFC 6901) to the field; '' is the whole body")
    detail: str


class Problem(Frozen):
    """What went wrong, in words for a person and names for a program."""

    type: str = Field(description="Stable URI of the problem's kind; docs/problems.md lists them")
    title: str
    status: int = Field(description="HTTP status")
    detail: str
    instance: str | None = Field(default=None, description="URI of this occurrence")
    errors: tuple[ProblemItem, ...] = ()
