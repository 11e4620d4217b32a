"""Why a compressed file could not be loaded into a model. The model is unchanged whenever one of
these is raised.

RankpressError
└── LoadError
    ├── NotCompressed    the file holds no manifest of Rankpress
    ├── UnreadableFile   it is no checkpoint that can be read without running code
    └── DoesNotFit       names or shapes differ from the model's; all of them are listed
"""

from __future__ import annotations

from rankpress.errors import RankpressError

LISTED = 20


class LoadError(RankpressError):
    """The compressed file could not be loaded; the model is as it was."""

    slug = "load-error"
    title = "Cannot load"
    status = 0  # never goes over the wire


class NotCompressed(LoadError):
    """The file holds no manifest."""

    slug = "load-not-compressed"
    title = "Not a compressed file"


class UnreadableFile(LoadError):
    """It is no checkpoint that can be read without running code."""

    slug = "load-unreadable-file"
    title = "Unreadable file"


class DoesNotFit(LoadError):
    """Names or shapes differ from the model's. `missing` are the model's tensors that the file
    lacks, `unexpected` the file's that the model lacks, `mismatched` sentences."""

    slug = "load-does-not-fit"
    title = "Does not fit the model"

    def __init__(
        self,
        *,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        mismatched: tuple[str, ...] = (),
    ) -> None:
        self.missing, self.unexpected, self.mismatched = missing, unexpected, mismatched
        parts = [
            _listed("in the model but not in the file", missing),
            _listed("in the file but not in the model", unexpected),
            _listed("do not match", mismatched),
        ]
        super().__init__("; ".join(p for p in parts if p))


def _listed(what: str, names: tuple[str, ...]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{what}: {', '.join(names[:LISTED])}{more}"
