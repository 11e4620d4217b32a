"""One-shot submission: a form with the files and the fields becomes uploads and a request."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from app import multipart, quota, strict_json
from app.context import Services
from app.receive import NewUpload
from rankpress.errors import InvalidFile, InvalidRequest, PayloadTooLarge
from rankpress.schemas.upload import Upload

FILES = ("model", "validation")
TEXTS = ("threshold", "options")
# JSON's number, in ASCII: what Python's float() also takes ("1_0", "nan", "٠.٥") is none.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


@dataclass(kw_only=True)
class Form:
    """What was received: the texts, and an upload for each file."""

    texts: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The `JobRequest` that the form stands for."""
        options = self.texts.get("options")
        document = {} if options is None else strict_json.parse(options.encode(), "/options")
        for name in ("model", "threshold"):
            if name in document:
                raise InvalidRequest.at(f"/options/{name}", f"goes into the form's part {name}")
        if "model" not in self.uploads:
            raise InvalidRequest.at("/model", "the form's part model is missing: the file itself")
        document["model"] = self.uploads["model"].id
        if "threshold" in self.texts:
            document["threshold"] = _number(self.texts["threshold"])
        if "validation" in self.uploads:
            evaluation = document.setdefault("evaluation", {})
            if not isinstance(evaluation, dict):
                raise InvalidRequest.at("/options/evaluation", "a JSON object is expected")
            if "validation" in evaluation:
                raise InvalidRequest.at(
                    "/options/evaluation/validation", "the form has a part validation already"
                )
            evaluation["validation"] = self.uploads["validation"].id
        return document

    def fingerprint(self) -> dict[str, Any]:
        """What makes two forms the same: the texts and the files' bytes."""
        return {**self.texts, **{name: upload.sha256 for name, upload in self.uploads.items()}}


async def receive(
    services: Services, tenant: str, content_type: str, chunks: AsyncIterator[bytes], form: Form
) -> None:
    """Fills `form`; the files stream to the store while they arrive. On an error the file that
    was being received is gone; the finished ones in `form` are the caller's to delete."""
    part: multipart.PartBegin | None = None
    text = bytearray()
    upload: NewUpload | None = None
    events = multipart.events(multipart.boundary_of(content_type), chunks)
    try:
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, multipart.PartBegin):
                    part, text = event, bytearray()
                    _admit(part, form)
                    if part.name in FILES:
                        room = await quota.room(services, tenant, f"the part {part.name}")
                        upload = NewUpload(services, tenant, part.filename, room=room)
                elif isinstance(event, multipart.PartData):
                    if upload is not None:
                        await upload.write(event.data)
                        continue
                    text += event.data
                    _check_size(part, text, services.settings.max_json_bytes)
                elif part is not None and upload is not None:
                    form.uploads[part.name] = await _commit(part.name, upload)
                    upload = None
                elif part is not None:
                    form.texts[part.name] = _decode(part.name, bytes(text))
    except BaseException:
        if upload is not None:
            await upload.discard()
        raise


async def _commit(name: str, upload: NewUpload) -> Upload:
    try:
        return await upload.commit()
    except InvalidFile as error:
        # The same problem, saying which of the parts it is.
        raise type(error).at(f"/{name}", error.detail) from error


def _admit(part: multipart.PartBegin, form: Form) -> None:
    name = part.name
    if name not in FILES + TEXTS:
        raise InvalidRequest.at(
            f"/{name[:60]}", f"no such part; a form has {', '.join(FILES + TEXTS)}"
        )
    if name in form.uploads or name in form.texts:
        raise InvalidRequest.at(f"/{name}", "the part is there twice")
    if name in FILES and not part.is_file:
        raise InvalidRequest.at(f"/{name}", "a file is expected: a part with a filename")
    if name == "threshold" and part.is_file:
        raise InvalidRequest.at(f"/{name}", "a text field is expected, not a file")


def _check_size(part: multipart.PartBegin | None, text: bytearray, limit: int) -> None:
    if part is not None and len(text) > limit:
        raise PayloadTooLarge(f"the part {part.name} may have {limit} bytes at most")


def _decode(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest.at(f"/{name}", f"not UTF-8 at byte {error.start}") from error


def _number(text: str) -> int | float:
    shown = text if len(text) <= 40 else text[:40] + "..."
    if not _NUMBER.fullmatch(text):
        raise InvalidRequest.at("/threshold", f"a number such as 0.9 is expected; found {shown!r}")
    if not 0 < (value := float(text)) <= 1:
        raise InvalidRequest.at(
            "/threshold", f"a number above 0 and at most 1 is expected; found {shown!r}"
        )
    return value
