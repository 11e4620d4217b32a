"""The zip form of torch.save: a pickle `data.pkl`, and each storage as a stored member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from rankpress.errors import CorruptFile, PayloadTooLarge, UnsupportedFormat
from rankpress.formats import zips
from rankpress.formats.binary import Cursor, Slice, read_at
from rankpress.formats.limits import Limits
from rankpress.formats.safetensors import clip
from rankpress.formats.torch_contents import Contents, check_storages
from rankpress.formats.unpickling import read_pickle

_SEND = "send model.state_dict() saved with torch.save, or safetensors"
MANIFEST_RECORD = "extra/rankpress.json"


@dataclass(frozen=True, kw_only=True)
class Records:
    """The members of a torch archive, without the folder that holds them all."""

    prefix: str  # "archive/"
    members: dict[str, zips.Member]


def is_torch(members: tuple[zips.Member, ...]) -> bool:
    return any(m.name.split("/")[-1] in ("data.pkl", "constants.pkl") for m in members)


def records(members: tuple[zips.Member, ...]) -> Records:
    """Raises `UnsupportedFormat` for the relatives of a checkpoint that hold code, and for
    compressed members; `CorruptFile`."""
    prefix = members[0].name.split("/")[0] + "/"
    found = {m.name.removeprefix(prefix): m for m in members if m.name.startswith(prefix)}
    if len(found) != len(members):
        raise CorruptFile("the members of a torch archive must share one folder")
    if "constants.pkl" in found or any(name.startswith("code/") for name in found):
        raise UnsupportedFormat(
            "the file is a TorchScript archive (torch.jit.save), which holds code and is never "
            f"loaded here; {_SEND}"
        )
    if any(m.name.endswith("extern_modules") for m in members):
        raise UnsupportedFormat(f"the file is a torch.package archive, which holds code; {_SEND}")
    for member in members:
        if member.method != zips.STORED:
            raise UnsupportedFormat(
                f"member {clip(member.name)} of the archive is compressed ({member.stored} bytes "
                f"that claim to be {member.size}); send the file as torch.save wrote it"
            )
    if "data.pkl" not in found:
        raise CorruptFile("the torch archive holds no data.pkl")
    return Records(prefix=prefix, members=found)


def read_contents(
    file: IO[bytes], size: int, members: tuple[zips.Member, ...], limits: Limits
) -> Contents:
    """The pickle's description, with each storage checked against its member. The offsets of the
    storages are left to `storage_offsets`, which reads every local header."""
    found = records(members)
    _check_byte_order(file, found)
    member = found.members["data.pkl"]
    if member.size > limits.max_header_bytes:
        raise PayloadTooLarge(
            f"the pickle inside the file is {member.size} bytes long; the limit is "
            f"{limits.max_header_bytes} bytes"
        )
    start = zips.locate(file, member)
    if start + member.size > size:
        raise CorruptFile("the pickle inside the file runs past its end")
    cursor = Cursor(Slice(file, start, member.size), member.size)  # type: ignore[arg-type]
    root = read_pickle(cursor, limits)
    sizes = {
        name.removeprefix("data/"): m.size
        for name, m in found.members.items()
        if name.startswith("data/")
    }
    return check_storages(root, sizes, size, limits)


def storage_offsets(
    file: IO[bytes], size: int, members: tuple[zips.Member, ...]
) -> dict[str, tuple[int, int]]:
    """Storage key -> (offset in the file, bytes)."""
    found = records(members)
    offsets = zips.contiguous(file, members, size)
    return {
        name.removeprefix("data/"): (offsets[m.name], m.size)
        for name, m in found.members.items()
        if name.startswith("data/")
    }


def _check_byte_order(file: IO[bytes], found: Records) -> None:
    member = found.members.get("byteorder")
    if member is None:
        return
    if member.size > 16:
        raise CorruptFile("the torch archive has a damaged record of its byte order")
    order = read_at(file, zips.locate(file, member), member.size, "the byte order")
    if order != b"little":
        raise UnsupportedFormat(
            f"the file was written on a machine of byte order {clip(order.decode('latin-1'))}; "
            "load it there and save it as safetensors"
        )


def read_record(
    file: IO[bytes], members: tuple[zips.Member, ...], name: str, limits: Limits
) -> bytes | None:
    """The bytes of a record, or None when the archive has none of that name."""
    member = records(members).members.get(name)
    if member is None:
        return None
    if member.size > limits.max_header_bytes:
        raise PayloadTooLarge(f"the record {name} is {member.size} bytes long")
    return read_at(file, zips.locate(file, member), member.size, f"the record {name}")
