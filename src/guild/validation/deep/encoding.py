"""Was the text damaged on its way? (specs/guild.md 5.2)"""

from __future__ import annotations

import re

from guild.validation.deep.views import RowView

# what a byte 0x80 to 0xBF becomes when it is read as Windows-1252 or Latin-1
_TAIL = "\x80-\xbf" + bytes(sorted(set(range(0x80, 0xA0)) - {0x81, 0x8D, 0x8F, 0x90, 0x9D})).decode("cp1252")
_MOJIBAKE = re.compile(f"[\xc2\xc3][{_TAIL}]|\xe2[{_TAIL}][{_TAIL}]|\xf0[\x9f\u0178][{_TAIL}][{_TAIL}]|\xef\xbb\xbf|\ufffd")
# tab, newline and carriage return are text; so is every printable character
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")


def find_damaged_text(view: RowView) -> str | None:
    """A message with NUL or control characters, or with UTF-8 that was read as another encoding."""
    for text in view.contents or view.replies:
        control = _CONTROL.search(text)
        # bytes read as Latin-1 leave control characters in the middle of mojibake, which then is what to name
        wrong = None if text.isascii() else _MOJIBAKE.search(text)
        if wrong:
            return f"text in a wrong encoding, {wrong[0]!a} at character {wrong.start() + 1}"
        if control:
            name = "a NUL character" if control[0] == "\x00" else f"the control character U+{ord(control[0]):04X}"
            return f"{name} at character {control.start() + 1}"
    return None
