"""The first frame of a GIF: the decoder would unpack every frame of an animation to show one."""

from __future__ import annotations

from hjepa_eval.datasets.headers import Damage, check_size

_EXTENSION, _IMAGE, _END = 0x21, 0x2C, 0x3B


def first_frame(content: bytes) -> bytes:
    """Return a GIF of one frame: what comes before the second one. All blocks are walked, none is unpacked.

    Raises:
        Damage: the file ends early, holds no frame, or the canvas or the first frame is empty or too large.
    """
    try:
        check_size(int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little"))
        at = 13 + _table_size(content[10])
        first = 0
        while content[at] != _END:
            if content[at] == _IMAGE:
                if not first:
                    check_size(
                        int.from_bytes(content[at + 5 : at + 7], "little"),
                        int.from_bytes(content[at + 7 : at + 9], "little"),
                    )
                at = _after_blocks(content, at + 11 + _table_size(content[at + 9]))
                first = first or at
            elif content[at] == _EXTENSION:
                at = _after_blocks(content, at + 2)
            else:
                raise Damage(f"its GIF block at byte {at} is of no known kind")
    except IndexError:
        raise Damage("it is truncated") from None
    if not first:
        raise Damage("it holds no frame")
    return content[:first] + bytes([_END])


def _table_size(flags: int) -> int:
    """Return the bytes of the colour table that these flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(content: bytes, at: int) -> int:
    while content[at]:
        at += content[at] + 1
    return at + 1
