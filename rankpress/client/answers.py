"""From an answer to a typed value or a typed error."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from rankpress.client.effects import Answer
from rankpress.client.errors import UnexpectedAnswer
from rankpress.errors import InvalidRequest, RankpressError, from_problem
from rankpress.schemas.problem import Problem, ProblemItem

M = TypeVar("M", bound=BaseModel)


def check(answer: Answer) -> Answer:
    """The answer when its status is a success. Raises the server's problem as its type, and
    `UnexpectedAnswer` for an error that is no problem document (a proxy's page, another
    service)."""
    if 200 <= answer.status < 300:
        return answer
    raise error_of(answer)


def error_of(answer: Answer) -> RankpressError:
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        kind = media_type(answer) or "no content type"
        return UnexpectedAnswer(
            f"the server answered {answer.status} with {kind}, not a problem document; "
            "is the address that of a Rankpress service?"
        )
    error = from_problem(problem)
    if "retry-after" in answer.headers:
        error.headers["Retry-After"] = answer.headers["retry-after"]
    return error


def parse(answer: Answer, model: type[M]) -> M:
    """The body of a success as a model. Raises as `check` does, and `UnexpectedAnswer` when the
    body is not what the API promises."""
    check(answer)
    try:
        return model.model_validate_json(answer.content)
    except ValidationError as error:
        where = ", ".join(sorted({pointer(e["loc"]) or "the body" for e in error.errors()})[:5])
        raise UnexpectedAnswer(
            f"the server answered {answer.status}, but its body is no {model.__name__} ({where})"
        ) from error


def media_type(answer: Answer) -> str:
    return answer.headers.get("content-type", "").split(";")[0].strip().lower()


def pointer(loc: tuple[int | str, ...]) -> str:
    """A pydantic location as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in loc)


def invalid_request(error: ValidationError) -> InvalidRequest:
    """The error the server would answer for these fields, raised before anything is sent."""
    items = tuple(
        ProblemItem(pointer=pointer(e["loc"]), detail=e["msg"].removeprefix("Value error, "))
        for e in error.errors(include_url=False)
    )
    detail = "; ".join(f"{i.pointer}: {i.detail}" if i.pointer else i.detail for i in items)
    return InvalidRequest(detail, errors=items)
