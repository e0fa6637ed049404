"""Reads the bounded log of a sandbox's output. Everything here blocks, but only for the disk."""

import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervisor.sandbox.lines import Lines
from supervisor.sandbox.process.records import OUTPUT, OUTPUT_BEFORE

_CHUNK: Final = 256 * 1024


class LogReader:
    """Reads from the oldest line that is kept to the newest, and goes on where it was. To be closed."""

    def __init__(self, directory: Path) -> None:
        self._path, self._before = directory / OUTPUT, directory / OUTPUT_BEFORE
        self._file: int | None = None
        self._lines = Lines()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def begin(self, tail: int) -> list[str]:
        """The last `tail` lines of what there is."""
        lines: deque[str] = deque(maxlen=tail)
        self._file = _open(self._path)
        before = _open(self._before)
        if before is not None:
            # The log may have turned since we opened it: then this is the same file.
            if self._file is None or not os.path.sameopenfile(before, self._file):
                self._read(before, lines)
            os.close(before)
        if self._file is not None:
            self._read(self._file, lines)
        return list(lines)

    def more(self) -> list[str]:
        """The lines that have come since."""
        lines: list[str] = []
        if self._file is not None:
            self._read(self._file, lines)
        if self._has_turned():
            self.close()
            self._file = _open(self._path)
            lines += self.more()
        return lines

    def finish(self) -> list[str]:
        """What is left of a line that never ended."""
        return self._lines.finish()

    def _has_turned(self) -> bool:
        with suppress(FileNotFoundError):
            return self._file is None or not os.path.samestat(self._path.stat(), os.fstat(self._file))
        return False

    def _read(self, file: int, lines: "deque[str] | list[str]") -> None:
        while chunk := os.read(file, _CHUNK):
            lines.extend(self._lines.feed(chunk))


def read_logs(directory: Path, tail: int) -> Sequence[str]:
    """The last lines that are kept."""
    reader = LogReader(directory)
    try:
        lines = reader.begin(tail)
    finally:
        reader.close()
    return [*lines, *reader.finish()][-tail:] if tail else []


def _open(path: Path) -> int | None:
    with suppress(FileNotFoundError):
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    return None
