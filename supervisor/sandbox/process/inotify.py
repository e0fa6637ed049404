"""inotify(7), of which Python's standard library knows nothing: hears at once when a directory's files change."""

import ctypes
import os
from pathlib import Path
from typing import Final

_MODIFY: Final = 0x2
_MOVED_TO: Final = 0x80
_CREATE: Final = 0x100
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def watch_directory(path: Path) -> int:
    """A descriptor that is readable when something was written, moved or made there. Whoever gets it closes it."""
    descriptor: int = _checked(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        _checked(_LIBC.inotify_add_watch(descriptor, os.fsencode(path), _MODIFY | _MOVED_TO | _CREATE))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _checked(answer: int) -> int:
    if answer == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
