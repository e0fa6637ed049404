"""Exported workspaces: whole and on the disk, or not there."""

import os
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


def write_half(target: Path, error: Exception) -> None:
    """Fail in the middle."""
    with new_archive(target) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("error", [OSError(5, "Input or output"), RuntimeError("a bug")])
def test_archive_that_fails_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    """Whatever it fails with; what the file system says is told."""
    expected = SandboxFailed if isinstance(error, OSError) else RuntimeError
    with pytest.raises(expected, match=str(error.args[-1])):
        write_half(tmp_path / "c1.tar", error)
    assert list(tmp_path.iterdir()) == []


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
