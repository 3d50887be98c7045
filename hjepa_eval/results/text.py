"""Text from data, as it may be shown: on a terminal, in Markdown, LaTeX, CSV and HTML, whatever the names hold."""

from __future__ import annotations

import re
import unicodedata

# Control characters but tab and newline, marks that turn the direction of text, bytes of file names that are no UTF-8,
# and what no file can hold.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
# What a spreadsheet would run.
_FORMULA = re.compile(r"\s*[=+\-@]|[\t\r]")
# Whatever can begin emphasis, code, a link, strikethrough or mathematics, or end a cell or a picture's text.
_SPECIAL = re.compile(r"[\\`*_\[\]|~$]")
# What would make a list item another list, a heading or a quotation.
_LEADING = re.compile(r"^(?:\d+[.)](?=\s|$)|[-+](?=\s|$)|-{2,}$|#+(?=\s|$)|>)")
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "{}_%&#$"},
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MICRO SIGN}": r"$\mu$",
    "\N{DEGREE SIGN}": r"$^\circ$",
    "\N{EN DASH}": r"\textendash{}",
    "\N{EM DASH}": r"\textemdash{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{LEFT SINGLE QUOTATION MARK}": r"\textquoteleft{}",
    "\N{RIGHT SINGLE QUOTATION MARK}": r"\textquoteright{}",
    "\N{LEFT DOUBLE QUOTATION MARK}": r"\textquotedblleft{}",
    "\N{RIGHT DOUBLE QUOTATION MARK}": r"\textquotedblright{}",
    '"': r"\char34{}",
    "\N{LATIN SMALL LETTER SHARP S}": r"\ss{}",
    "\N{LATIN SMALL LETTER AE}": r"\ae{}",
    "\N{LATIN CAPITAL LETTER AE}": r"\AE{}",
    "\N{LATIN SMALL LIGATURE OE}": r"\oe{}",
    "\N{LATIN CAPITAL LIGATURE OE}": r"\OE{}",
    "\N{LATIN SMALL LETTER O WITH STROKE}": r"\o{}",
    "\N{LATIN CAPITAL LETTER O WITH STROKE}": r"\O{}",
    "\N{LATIN SMALL LETTER L WITH STROKE}": r"\l{}",
    "\N{LATIN CAPITAL LETTER L WITH STROKE}": r"\L{}",
    "\N{LATIN SMALL LETTER DOTLESS I}": r"\i{}",
}
# Combining characters, and the accents that the default fonts have.
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
}
# Between characters that would melt into a dash or another quotation mark.
_MELTING = re.compile(r"(?<=-)(?=-)|(?<=[`?!])(?=`)|(?<=')(?=')|(?<=,)(?=,)")


def visible(text: str) -> str:
    r"""Return a text whose unseen characters stand as escapes, such as `\x1b` and `\u202e`; tabs and newlines stay.

    So a name from data can neither move a terminal's cursor nor turn a line of a page around.
    """
    return _UNSEEN.sub(lambda match: _escaped(match[0]), text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str) -> str:
    """Return a text as `visible` does, on one line."""
    return visible(" ".join(re.split(r"[ \t\r\n]+", text.strip())))


def markdown_text(text: object) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    plain = one_line(str(text)).replace("&", "&amp;").replace("<", "&lt;")
    return _LEADING.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", _SPECIAL.sub(r"\\\g<0>", plain))


def csv_field(text: str) -> str:
    """Return a text as a field of CSV: one that a spreadsheet would take for a formula begins with a quotation mark."""
    return f"'{visible(text)}" if _FORMULA.match(text) and not _is_number(text) else visible(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def latex_text(text: str) -> str:
    """Return a text as LaTeX shows it, on one line; a character that the default fonts lack becomes `[U+65E5]`."""
    plain = unicodedata.normalize("NFC", " ".join(text.split()))
    return _MELTING.sub("{}", "".join(_character(character) for character in plain))


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isascii():
        return character if character.isprintable() else f"[U+{ord(character):04X}]"
    letter, *marks = list(unicodedata.normalize("NFD", character))
    if letter.isascii() and letter.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS:
        return f"\\{_ACCENTS[marks[0]]}{{{letter}}}"
    return f"[U+{ord(character):04X}]"
