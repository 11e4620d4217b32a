"""Text that came from elsewhere (tensor names, details), made safe and numbers made readable."""

from __future__ import annotations


def plain(text: str) -> str:
    """Without control characters: a tensor's name must not move the cursor or recolour the
    terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def size(count: int) -> str:
    """Bytes in binary units: 1536 -> '1.5 KiB'."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def share(after: int, before: int) -> str:
    return f"{100 * after / before:.1f} %" if before else "-"


def number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"
