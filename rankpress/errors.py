"""The one error tree.

RankpressError
├── InvalidRequest            422 invalid-request      a field is wrong; `errors` points at it
├── InvalidFile               422 invalid-file         a file is not what it must be
│   ├── UnsupportedFormat     422 unsupported-format   recognised, or not, but not a checkpoint
│   ├── CorruptFile           422 corrupt-file         cut short, or its parts contradict each other
│   ├── UnsafePickle          422 unsafe-pickle        reading it would run code
│   ├── AmbiguousCheckpoint   422 ambiguous-checkpoint several candidates; weights_path chooses
│   └── TooLargeInside        422 too-large-inside     asks for far more memory than its bytes
├── DigestMismatch            422 digest-mismatch
├── EvaluationMismatch        422 evaluation-mismatch  model, architecture and data do not fit
├── BadRequest                400 bad-request
├── Unauthorized              401 unauthorized
├── Forbidden                 403 forbidden
├── NotFound                  404 not-found
├── MethodNotAllowed          405 method-not-allowed
├── NotAcceptable             406 not-acceptable
├── RequestTimeout            408 request-timeout      the body stalled
├── Conflict                  409 conflict
├── UploadOffsetMismatch      409 upload-offset-mismatch  `Upload-Offset` has the true one
├── NotReady                  409 not-ready            the job has not ended, or ended without it
├── PreconditionFailed        412 precondition-failed
├── PayloadTooLarge           413 payload-too-large
├── UnsupportedMediaType      415 unsupported-media-type
├── RangeNotSatisfiable       416 range-not-satisfiable
├── IdempotencyMismatch       422 idempotency-mismatch the key was used with another body
├── TooManyRequests           429 too-many-requests
├── HeadersTooLarge           431 headers-too-large    request line and header fields
├── InsufficientStorage       507 insufficient-storage
├── Unavailable               503 unavailable          database or store cannot be reached
├── JobFailed                 500 job-failed           the compute failed, and why
│   ├── ChildDied             500 child-died           its process was killed or crashed
│   └── TooManyAttempts       500 too-many-attempts    a poison job, stopped
└── InternalError             500 internal-error       the detail stays in the log
"""

from __future__ import annotations

from typing import ClassVar, Self

from rankpress.schemas.problem import Problem, ProblemItem

TYPE_PREFIX = "urn:rankpress:problem:"


class RankpressError(Exception):
    """Base of every error that a caller can see.

    `detail` names what was found and what to send instead; it never holds a server path, a
    secret or a stack trace. `errors` are JSON pointers into the request with a sentence each.
    `headers` are HTTP headers that the status calls for (`Retry-After`, `Allow`, ...).
    """

    slug: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"
    status: ClassVar[int] = 500

    def __init__(
        self,
        detail: str,
        *,
        errors: tuple[ProblemItem, ...] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    @classmethod
    def at(cls, pointer: str, detail: str) -> Self:
        """One wrong field, by its JSON pointer (RFC 6901)."""
        return cls(f"{pointer}: {detail}", errors=(ProblemItem(pointer=pointer, detail=detail),))

    def to_problem(self, instance: str | None = None) -> Problem:
        return Problem(
            type=TYPE_PREFIX + self.slug,
            title=self.title,
            status=self.status,
            detail=self.detail,
            instance=instance,
            errors=self.errors,
        )


class InvalidRequest(RankpressError):
    """A field is wrong; `errors` points at it."""

    slug = "invalid-request"
    title = "Invalid request"
    status = 422


class InvalidFile(RankpressError):
    """A file is not what it must be."""

    slug = "invalid-file"
    title = "Invalid file"
    status = 422


class UnsupportedFormat(InvalidFile):
    """Recognised, or not, but not a checkpoint."""

    slug = "unsupported-format"
    title = "Unsupported file format"
    status = 422


class CorruptFile(InvalidFile):
    """Cut short, or its parts contradict each other."""

    slug = "corrupt-file"
    title = "Corrupt file"
    status = 422


class UnsafePickle(InvalidFile):
    """Reading it would run code."""

    slug = "unsafe-pickle"
    title = "File needs code to be read"
    status = 422


class AmbiguousCheckpoint(InvalidFile):
    """Several candidates; weights_path chooses."""

    slug = "ambiguous-checkpoint"
    title = "Ambiguous checkpoint"
    status = 422


class TooLargeInside(InvalidFile):
    """Asks for far more memory than its bytes."""

    slug = "too-large-inside"
    title = "File asks for too much memory"
    status = 422


class DigestMismatch(RankpressError):
    slug = "digest-mismatch"
    title = "Digest mismatch"
    status = 422


class EvaluationMismatch(RankpressError):
    """Model, architecture and data do not fit."""

    slug = "evaluation-mismatch"
    title = "Evaluation does not fit"
    status = 422


class BadRequest(RankpressError):
    slug = "bad-request"
    title = "Bad request"
    status = 400


class Unauthorized(RankpressError):
    slug = "unauthorized"
    title = "Unauthorized"
    status = 401


class Forbidden(RankpressError):
    slug = "forbidden"
    title = "Forbidden"
    status = 403


class NotFound(RankpressError):
    slug = "not-found"
    title = "Not found"
    status = 404


class MethodNotAllowed(RankpressError):
    slug = "method-not-allowed"
    title = "Method not allowed"
    status = 405


class NotAcceptable(RankpressError):
    slug = "not-acceptable"
    title = "Not acceptable"
    status = 406


class RequestTimeout(RankpressError):
    """The body stalled."""

    slug = "request-timeout"
    title = "Request timed out"
    status = 408


class Conflict(RankpressError):
    slug = "conflict"
    title = "Conflict"
    status = 409


class UploadOffsetMismatch(Conflict):
    """The header `Upload-Offset` of the answer has the true one."""

    slug = "upload-offset-mismatch"
    title = "Upload offset does not match"
    status = 409


class NotReady(RankpressError):
    """The job has not ended, or ended without it."""

    slug = "not-ready"
    title = "Not ready"
    status = 409


class PreconditionFailed(RankpressError):
    slug = "precondition-failed"
    title = "Precondition failed"
    status = 412


class PayloadTooLarge(RankpressError):
    slug = "payload-too-large"
    title = "Payload too large"
    status = 413


class UnsupportedMediaType(RankpressError):
    slug = "unsupported-media-type"
    title = "Unsupported media type"
    status = 415


class RangeNotSatisfiable(RankpressError):
    slug = "range-not-satisfiable"
    title = "Range not satisfiable"
    status = 416


class IdempotencyMismatch(RankpressError):
    """The key was used with another body."""

    slug = "idempotency-mismatch"
    title = "Idempotency key reused"
    status = 422


class HeadersTooLarge(RankpressError):
    slug = "headers-too-large"
    title = "Request header fields too large"
    status = 431


class TooManyRequests(RankpressError):
    slug = "too-many-requests"
    title = "Too many requests"
    status = 429


class InsufficientStorage(RankpressError):
    slug = "insufficient-storage"
    title = "Insufficient storage"
    status = 507


class Unavailable(RankpressError):
    """Database or store cannot be reached."""

    slug = "unavailable"
    title = "Service unavailable"
    status = 503


class JobFailed(RankpressError):
    """The compute failed, and why."""

    slug = "job-failed"
    title = "Job failed"
    status = 500


class ChildDied(JobFailed):
    """Its process was killed or crashed."""

    slug = "child-died"
    title = "Compute process died"
    status = 500


class TooManyAttempts(JobFailed):
    """A poison job, stopped."""

    slug = "too-many-attempts"
    title = "Too many attempts"
    status = 500


class InternalError(RankpressError):
    """The detail stays in the log."""

    slug = "internal-error"
    title = "Internal error"
    status = 500


def _subclasses(cls: type[RankpressError]) -> list[type[RankpressError]]:
    return [s for c in cls.__subclasses__() for s in (c, *_subclasses(c))]


def from_problem(problem: Problem) -> RankpressError:
    """The error that a problem was made from, so that callers catch types, not status codes."""
    slug = problem.type.removeprefix(TYPE_PREFIX)
    by_slug = {c.slug: c for c in _subclasses(RankpressError)}
    cls = by_slug.get(slug, JobFailed if problem.status >= 500 else BadRequest)
    return cls(problem.detail, errors=problem.errors)
