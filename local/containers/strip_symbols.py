"""Symbols and debugging information, cut off shared libraries: `strip_symbols.py FOLDER`.

The wheels of uvloop and asyncpg carry 27 MB of them, a fifth of an image. What the dynamic loader
reads is in the segments; sections are for linkers and debuggers. So a library may end where its
last segment ends, which needs no binutils in the image that builds. Linux' ELF64, little-endian;
any other file stays as it is.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")
SECTIONS_OFFSET_AT, SECTIONS_COUNT_AT = 40, 60


def strip(path: Path) -> int:
    """Cut ``path``; return how many bytes that saved."""
    content = bytearray(path.read_bytes())
    if not content.startswith(ELF64_LITTLE_ENDIAN):
        return 0
    fields: tuple[int, ...] = HEADER.unpack_from(content)
    segments_at, (header_size, entry_size, entries) = fields[4], fields[7:10]
    end = max(header_size, segments_at + entry_size * entries)
    for number in range(entries):
        segment = SEGMENT.unpack_from(content, segments_at + number * entry_size)
        end = max(end, segment[2] + segment[5])
    struct.pack_into("<Q", content, SECTIONS_OFFSET_AT, 0)
    struct.pack_into("<HH", content, SECTIONS_COUNT_AT, 0, 0)
    # A new file in the old one's place: installers link files to their cache, whose other links
    # belong to environments that run.
    cut = path.with_name(f"{path.name}.cut")
    cut.write_bytes(content[:end])
    cut.chmod(path.stat().st_mode)
    cut.replace(path)
    return len(content) - end


if __name__ == "__main__":
    saved = sum(strip(path) for path in Path(sys.argv[1]).rglob("*.so*") if path.is_file())
    print(f"{saved} bytes of symbols")
