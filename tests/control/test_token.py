"""The token file."""

import errno
import os
from pathlib import Path

import pytest

from supervisor.control.token import Token, load_token
from supervisor.secret_file import UnsafeSecret


def test_load_makes_a_token_once(tmp_path: Path) -> None:
    """The first start makes it, for its owner only; the next ones read it."""
    path = tmp_path / "state" / "token"
    first = load_token(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(first.secret) >= 43
    assert load_token(path) == first


def test_load_makes_different_tokens(tmp_path: Path) -> None:
    """They are random."""
    assert load_token(tmp_path / "a") != load_token(tmp_path / "b")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700])
def test_load_refuses_a_file_that_is_open_to_others(tmp_path: Path, mode: int) -> None:
    """It may have been read; the message says what to do."""
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(mode)
    with pytest.raises(UnsafeSecret, match="chmod 0600"):
        load_token(path)


def test_load_accepts_a_file_that_is_closed_even_to_its_owners_writes(tmp_path: Path) -> None:
    """Mode 0400 is narrower than needed, which is fine."""
    path = tmp_path / "token"
    path.write_text("secret\n")
    path.chmod(0o400)
    assert load_token(path) == Token("secret")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"a\x00b", b"a\nb"])
def test_load_refuses_a_file_without_a_token(tmp_path: Path, content: bytes) -> None:
    """An empty token would let everybody in."""
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UnsafeSecret, match="holds no token"):
        load_token(path)


def test_load_refuses_a_link_and_a_directory_and_a_pipe(tmp_path: Path) -> None:
    """Only a regular file of that very name counts, and a pipe does not hang the start."""
    target = tmp_path / "target"
    target.write_text("secret")
    target.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(target)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (link, tmp_path, pipe):
        with pytest.raises(UnsafeSecret):
            load_token(path)


def test_load_refuses_a_file_of_someone_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns it knows it."""
    path = tmp_path / "token"
    load_token(path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(UnsafeSecret, match="belongs to user"):
        load_token(path)


def test_load_says_when_the_file_cannot_be_made(tmp_path: Path) -> None:
    """A parent that is no directory, for one."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UnsafeSecret, match="cannot be"):
        load_token(tmp_path / "file" / "token")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "x")
    with pytest.raises(UnsafeSecret, match="cannot be"):
        load_token(tmp_path / "dangling")


def test_load_says_when_the_file_cannot_be_created(tmp_path: Path) -> None:
    """Something took the parent's name."""
    (tmp_path / "dir").symlink_to(tmp_path / "missing")
    with pytest.raises(UnsafeSecret, match="cannot be made"):
        load_token(tmp_path / "dir" / "token")


def test_load_that_is_cut_off_leaves_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start would refuse it; and nothing else is left, either."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnsafeSecret, match="cannot be made: No space left"):
        load_token(tmp_path / "token")
    assert list(tmp_path.iterdir()) == []


def test_matches_is_exact_and_takes_anything() -> None:
    """Also what is not ASCII, which a plain comparison in constant time refuses to look at."""
    assert Token("secret").matches("secret")
    assert not Token("secret").matches("secre")
    assert not Token("secret").matches("sécret\ud800")
    assert "secret" not in repr(Token("secret"))
