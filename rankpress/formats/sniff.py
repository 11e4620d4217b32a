"""What a file is by its first bytes, never by its name; and what to say of those that are none."""

from __future__ import annotations

from rankpress.formats import torch_legacy, zips

HEAD_BYTES = 1024
SEND = "send model.state_dict() saved with torch.save, or safetensors"

_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GGUF", "a GGUF file"),
    (0, b"tjgg", "a GGML file"),
    (0, b"lmgg", "a GGML file"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, .h5)"),
    (0, b"\x1f\x8b", "compressed with gzip"),
    (0, b"BZh", "compressed with bzip2"),
    (0, b"\xfd7zXZ\x00", "compressed with xz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstandard"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"\x93NUMPY", "a single .npy array; numpy.savez names its arrays"),
    (0, b"%PDF", "a PDF"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x7fELF", "an executable"),
    (0, b"MZ", "a Windows executable"),
    (0, b"#!", "a script"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (
        0,
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file it stands for",
    ),
    (0, b"PAR1", "a Parquet file"),
    (0, b"SQLite format 3\x00", "an SQLite database"),
)
_MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<svg", b"<error")


def foreign(head: bytes) -> str | None:
    """In words, what a file is that is no checkpoint; None when the bytes say nothing."""
    for offset, magic, what in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return what
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_MARKUP):
        return "an HTML or XML page, most often an error page or a login page that was saved"
    return None


def is_zip(head: bytes) -> bool:
    return head[:4] in (zips.MAGIC, zips.EMPTY_MAGIC)


def is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{"


def is_json(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")


def is_legacy(head: bytes) -> bool:
    return torch_legacy.looks_legacy(head)


def is_pickle(head: bytes) -> bool:
    """Protocols 2 to 5 say so; the beginnings that protocols 0 and 1 have are letters."""
    return (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05") or head[:1] in (
        b"c",
        b"(",
        b"]",
        b"}",
        b"i",
    )


def shown(head: bytes) -> str:
    """The first bytes, for the one who wonders what was sent."""
    return ascii(head[:16])[1:]
