"""The files that workspaces are exported to."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from supervisor.conversation.errors import SandboxFailed


@contextmanager
def new_archive(target: Path) -> Iterator[BinaryIO]:
    """Write a new file (mode 0600); it is on the disk, and so is its name, when this is left. Blocks.

    If that fails, or what is done meanwhile does, nothing of the file is left.

    Raises:
        SandboxFailed: it exists or cannot be written, or an `OSError` was raised meanwhile.
    """
    try:
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(file, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            _sync_directory(target.parent)
        except BaseException:
            with suppress(OSError):  # why it failed is what counts
                target.unlink()
            raise
    except OSError as error:
        raise SandboxFailed(f"cannot write the workspace to {target}: {error.strerror or error}") from error


def _sync_directory(path: Path) -> None:
    """A new file may be gone after a crash of the host if only its content was synced (fsync(2)).

    A file system that cannot sync directories does what it can by itself; of one that we may not read nothing is asked.
    """
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(directory)
