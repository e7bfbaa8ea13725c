"""The text of the PDF documents that we set: enough of a reader for typst's output, so that tests read what a person reads."""

from __future__ import annotations

import re
import zlib

_OBJECT = re.compile(rb"(\d+) 0 obj\s(.*?)\sendobj", re.DOTALL)
_STREAM = re.compile(rb"/Length (\d+).*?stream\r?\n", re.DOTALL)
_SHOWN = re.compile(
    rb"/(f\d+) [\d.]+ Tf|/ActualText\s*<(?i:feff)([0-9A-Fa-f]*)>|/Alt\s*<[0-9A-Fa-f]*>|<([0-9A-Fa-f]*)>|\b(ET|EMC)\b"
)
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
_PAIR = re.compile(rb"<([0-9A-Fa-f]+)>\s*<([0-9A-Fa-f]+)>")


class Pdf:
    """A PDF's objects by number."""

    def __init__(self, content: bytes) -> None:
        assert content.startswith(b"%PDF-")
        self._objects = {int(number): body for number, body in _OBJECT.findall(content)}
        self._maps = {number: self._characters(body) for number, body in self._objects.items() if b"/ToUnicode" in body}

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return len(self._leaves())

    def text(self, pages: slice = slice(None)) -> str:
        """The texts of the pages, in the order in which they are set, apart by new lines."""
        return "\n".join(self._page(body) for body in self._leaves()[pages])

    def _leaves(self) -> list[bytes]:
        return [body for body in self._objects.values() if re.search(rb"/Type\s*/Page\b", body)]

    def _page(self, page: bytes) -> str:
        resources = self._resources(page)
        fonts = dict(re.findall(rb"/(f\d+)\s+(\d+) 0 R", resources))
        contents = re.search(rb"/Contents (\d+) 0 R", page)
        assert contents is not None
        parts: list[str] = []
        current: dict[int, str] = {}
        spoken = False
        for font, actual, shown, end in _SHOWN.findall(_hexadecimal(self._stream(self._objects[int(contents[1])]))):
            if font:
                current = self._maps[int(fonts[font])]
            elif actual:
                # Signs that were joined or reordered say themselves what they are.
                parts.append(bytes.fromhex(actual.decode()).decode("utf-16-be"))
                spoken = True
            elif end:
                spoken = spoken and end != b"EMC"
                parts.append("\n" if end == b"ET" else "")
            elif not spoken:
                parts += [current.get(int(shown[at : at + 4], 16), "") for at in range(0, len(shown), 4)]
        return re.sub(r"\n+", "\n", "".join(parts))

    def _resources(self, page: bytes) -> bytes:
        reference = re.search(rb"/Resources (\d+) 0 R", page)
        return self._objects[int(reference[1])] if reference else page

    def _characters(self, body: bytes) -> dict[int, str]:
        reference = re.search(rb"/ToUnicode (\d+) 0 R", body)
        assert reference is not None
        table = b"".join(
            re.findall(rb"beginbfchar(.*?)endbfchar", self._stream(self._objects[int(reference[1])]), re.DOTALL)
        )
        return {int(code, 16): bytes.fromhex(text.decode()).decode("utf-16-be") for code, text in _PAIR.findall(table)}

    def _stream(self, body: bytes) -> bytes:
        head = _STREAM.search(body)
        assert head is not None
        content = body[head.end() : head.end() + int(head[1])]
        return zlib.decompress(content) if b"/FlateDecode" in body else content


def _hexadecimal(content: bytes) -> bytes:
    """A page's content with its literal strings, in which brackets may nest, as hexadecimal ones."""
    result, text, depth, place = bytearray(), bytearray(), 0, 0
    while place < len(content):
        char = content[place : place + 1]
        place += 1
        if char == b"\\" and depth:
            octal = re.match(rb"[0-7]{1,3}", content[place : place + 3])
            escape = octal[0] if octal else content[place : place + 1]
            text += bytes([int(escape, 8)]) if octal else _LETTERS.get(escape, escape)
            place += len(escape)
            continue
        depth += (char == b"(") - (char == b")")
        if (char == b"(" and depth > 1) or (depth and char != b"("):
            text += char
        elif char == b")":
            result += b"<" + text.hex().encode() + b">"
            text.clear()
        elif not depth:
            result += char
    return bytes(result)
