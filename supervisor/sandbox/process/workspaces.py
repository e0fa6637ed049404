"""The directories that conversations work in. Everything here blocks."""

import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

import attrs

from supervisor.conversation.errors import SandboxFailed
from supervisor.conversation.ids import ConversationId, parse_conversation_id
from supervisor.sandbox.archives import new_archive

_MODE: Final = 0o700
_CHUNK: Final = 256 * 1024
_READ_NEW: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@attrs.frozen
class Workspaces:
    """All of one daemon, each a directory of its own below `root`."""

    root: Path

    def path(self, conversation: ConversationId) -> Path:
        """Where a conversation works."""
        return self.root / conversation

    def make(self, conversation: ConversationId, owner: tuple[int, int] | None) -> Path:
        """Make the workspace, or find it; `owner` are the uid and gid that it is to belong to."""
        path = self.path(conversation)
        self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        path.mkdir(mode=_MODE, exist_ok=True)
        if owner is not None:
            os.chown(path, *owner, follow_symlinks=False)
        return path

    def list_owned(self) -> Sequence[ConversationId]:
        """Whose workspaces there are."""
        found = []
        with suppress(FileNotFoundError):
            for path in self.root.iterdir():
                with suppress(ValueError):
                    found.append(parse_conversation_id(path.name))
        return found

    def remove(self, conversation: ConversationId) -> None:
        """Remove it with all that is in it. Links in it are removed, never followed."""
        path = self.path(conversation)
        with suppress(FileNotFoundError):
            try:
                shutil.rmtree(path)
            except PermissionError:
                _open_up(path)
                shutil.rmtree(path)

    def export(self, conversation: ConversationId, target: Path) -> None:
        """Write it into a new tar file; nothing of that is left if it fails. Links are kept as links.

        Raises:
            SandboxFailed: the file exists or cannot be written, or something in the workspace cannot be read.
        """
        path = self.path(conversation)
        with new_archive(target) as stream:
            try:
                _write_tar(path, stream)
            except OSError as error:
                raise SandboxFailed(f"cannot write the workspace {path} to {target}: {error}") from error


def _open_up(path: Path) -> None:
    """Give ourselves the right to empty every directory: caches of tools are often made read-only."""
    path.chmod(_MODE)
    for _, directories, _, descriptor in os.fwalk(path):
        for name in directories:
            with suppress(OSError), _opened(name, descriptor) as directory:
                os.fchmod(directory, _MODE)


def _write_tar(path: Path, stream: BinaryIO) -> None:
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        # By descriptors: what is swapped for a link while we walk leads nowhere.
        for directory, directories, files, descriptor in os.fwalk(path, onerror=_raise):
            inside = str(Path(path.name) / Path(directory).relative_to(path))
            tar.addfile(_describe(tar, inside, os.fstat(descriptor)))
            for name in (*files, *directories):
                with suppress(FileNotFoundError):
                    _add(tar, name, descriptor, f"{inside}/{name}")


def _add(tar: tarfile.TarFile, name: str, descriptor: int, inside: str) -> None:
    """Add a file or a link; directories come when they are walked, and sockets, pipes and devices not at all."""
    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    described = _describe(tar, inside, status)
    if described.issym():
        described.linkname = os.readlink(name, dir_fd=descriptor)
        tar.addfile(described)
    elif described.isreg():
        with _opened(name, descriptor) as file:
            described.size = os.fstat(file).st_size
            tar.addfile(described, _Exactly(file))


def _describe(tar: tarfile.TarFile, inside: str, status: os.stat_result) -> tarfile.TarInfo:
    described = tar.tarinfo(inside)
    described.mode, described.mtime = status.st_mode & 0o7777, int(status.st_mtime)
    described.uid, described.gid = status.st_uid, status.st_gid
    kinds = {0o040000: tarfile.DIRTYPE, 0o120000: tarfile.SYMTYPE, 0o100000: tarfile.REGTYPE}
    described.type = kinds.get(status.st_mode & 0o170000, tarfile.FIFOTYPE)
    return described


class _Exactly:
    """As many bytes as were announced, zeros for those of a file that has become shorter meanwhile."""

    def __init__(self, file: int) -> None:
        self._file = file

    def read(self, size: int = 0, /) -> bytes:
        content = bytearray()
        while len(content) < size and (chunk := os.read(self._file, min(size - len(content), _CHUNK))):
            content += chunk
        return bytes(content.ljust(size, b"\0"))


@contextmanager
def _opened(name: str, descriptor: int) -> Iterator[int]:
    file = os.open(name, _READ_NEW, dir_fd=descriptor)
    try:
        yield file
    finally:
        os.close(file)


def _raise(error: OSError) -> None:
    raise error
