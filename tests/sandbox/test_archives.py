"""Exported workspaces: whole and on the disk, or not there."""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from supervisor.conversation.errors import SandboxFailed
from supervisor.sandbox.archives import new_archive


def test_archive_is_on_the_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was made from may be removed as soon as it is written, for its owner alone."""
    target, synced = tmp_path / "c1.tar", list[str]()
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(str(Path(f"/proc/self/fd/{file}").readlink())))
    with new_archive(target) as file:
        file.write(b"workspace")
        assert synced == []
    assert synced == [str(target), str(tmp_path)]
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"workspace", 0o600)


def write_half(target: Path, error: Exception, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Fail in the middle."""
    with new_archive(target) as file:
        file.write(b"half")
        meanwhile()
        raise error


@pytest.mark.parametrize("error", [OSError(5, "Input or output"), RuntimeError("a bug")])
def test_archive_that_fails_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    """Whatever it fails with; what the file system says is told."""
    expected = SandboxFailed if isinstance(error, OSError) else RuntimeError
    with pytest.raises(expected, match=str(error.args[-1])):
        write_half(tmp_path / "c1.tar", error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_directory_that_cannot_be_synced_keeps_its_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fails: bool
) -> None:
    """Some file systems know no such thing; one that tried and failed has lost it."""
    real = os.fsync

    def fsync(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(code, os.strerror(code))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SandboxFailed) if fails else nullcontext(), new_archive(tmp_path / "c1.tar") as file:
        file.write(b"workspace")
    assert [path.name for path in tmp_path.iterdir()] == ([] if fails else ["c1.tar"])


def test_directory_that_may_not_be_read_keeps_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one to drop things into."""
    real = os.open

    def open_file(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", open_file)
    with new_archive(tmp_path / "c1.tar") as file:
        file.write(b"workspace")
    assert (tmp_path / "c1.tar").read_bytes() == b"workspace"


def test_archive_that_cannot_be_taken_back_fails_in_our_words(tmp_path: Path) -> None:
    """Its file system has become read-only, say: then it is still told why it failed."""
    target = tmp_path / "c1.tar"
    with pytest.raises(SandboxFailed, match="Input or output"):
        write_half(target, OSError(5, "Input or output"), target.unlink)


def test_full_disk_fails_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the system's words, also if it is only found when the last of it is written."""
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(os, "open", lambda *_: full)
    with pytest.raises(SandboxFailed, match="No space left"), new_archive(tmp_path / "c1.tar") as file:
        file.write(b"small")


@pytest.mark.parametrize("link", [False, True])
def test_archive_replaces_nothing(tmp_path: Path, link: bool) -> None:
    """Neither a file, nor what a link leads to."""
    target, other = tmp_path / "c1.tar", tmp_path / "other"
    other.write_text("precious")
    if link:
        target.symlink_to(other)
    else:
        other.rename(target)
    with pytest.raises(SandboxFailed, match="File exists"), new_archive(target):
        pytest.fail("it must not be written")
    assert target.read_text() == "precious"
