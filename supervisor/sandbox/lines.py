"""A sandbox's output, taken apart into lines."""

from typing import Final

LINE_MOST: Final = 16 * 1024
"""Bytes of a line; what is longer comes as several."""


class Lines:
    """Takes a stream of bytes apart."""

    def __init__(self) -> None:
        self._partial = bytearray()

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that end in this chunk."""
        *ended, rest = chunk.split(b"\n")
        lines: list[str] = []
        for piece in ended:
            self._partial += piece
            lines += self._cut()
            lines.append(self._take())
        self._partial += rest
        return lines + self._cut()

    def finish(self) -> list[str]:
        """What is left of a line that never ended."""
        return [self._take()] if self._partial else []

    def _cut(self) -> list[str]:
        """Cut full-length pieces off the front of a line that is too long."""
        lines: list[str] = []
        while len(self._partial) > LINE_MOST:
            lines.append(_decode(self._partial[:LINE_MOST]))
            del self._partial[:LINE_MOST]
        return lines

    def _take(self) -> str:
        line = _decode(self._partial)
        self._partial.clear()
        return line


def _decode(line: bytearray) -> str:
    return line.decode("utf-8", errors="replace").removesuffix("\r")
