"""The bounded log of a sandbox's output, as its keeper writes it: one file, and one that was full before it."""

import os
from contextlib import suppress
from typing import Final

from supervisor.sandbox.process.records import OUTPUT, OUTPUT_BEFORE

MOST: Final = 1024 * 1024
"""Bytes of one file: there are never more than two of them."""


class BoundedLog:
    """Appends to the log of a sandbox. What cannot be written, on a full disk for one, is let go."""

    def __init__(self, directory: str, most: int = MOST) -> None:
        self._path, self._before = f"{directory}/{OUTPUT}", f"{directory}/{OUTPUT_BEFORE}"
        self._most = most
        self._file, self._size = self._open()

    def write(self, chunk: bytes) -> None:
        """Append, beginning a new file where one is full."""
        with suppress(OSError):
            if self._size + len(chunk) > self._most and self._size:
                self._turn()
            self._size += os.write(self._file, chunk)

    def _turn(self) -> None:
        os.rename(self._path, self._before)
        full = self._file
        self._file, self._size = self._open()
        os.close(full)

    def _open(self) -> tuple[int, int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self._path, flags, 0o600)
        return file, os.fstat(file).st_size
