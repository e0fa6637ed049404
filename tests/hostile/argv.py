"""The command lines of all processes of the host, looked at again and again. No pytest in here."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_EVERY: Final = 0.002
"""Seconds of rest between two looks."""


@contextmanager
def watched_command_lines() -> Iterator[set[str]]:
    """Every command line that is seen as long as the context lasts, in sandboxes or not; none is missed that lasts."""
    seen: set[str] = set()
    end = threading.Event()

    def watch() -> None:
        while not end.wait(_EVERY):
            seen.update(_command_lines())

    thread = threading.Thread(target=watch, name="command lines")
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join()


def _command_lines() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
            yield process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
