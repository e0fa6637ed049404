"""The file of API keys."""

from pathlib import Path

import pytest

from supervisor.http.keys import load_api_keys
from supervisor.secret_file import UnsafeSecret

ONE, TWO = "a-key-of-the-tests-1", "a-key-of-the-tests-2"


def keys_file(path: Path, content: str, mode: int = 0o600) -> Path:
    """A file of keys."""
    path.write_text(content)
    path.chmod(mode)
    return path


def test_load_makes_one_random_key_once(tmp_path: Path) -> None:
    """For its owner only; the next start reads it."""
    path = tmp_path / "state" / "api-keys"
    (made,) = load_api_keys(path).keys
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(made.secret) >= 43
    assert load_api_keys(path).keys == (made,)
    assert load_api_keys(tmp_path / "other").keys != (made,)


def test_load_reads_one_key_a_line_and_skips_comments(tmp_path: Path) -> None:
    """Blank lines and what follows a `#` mean nothing."""
    keys = load_api_keys(keys_file(tmp_path / "k", f"# ours\n\n{ONE}\n  {TWO}  # theirs\n"))
    assert [key.secret for key in keys.keys] == [ONE, TWO]
    assert keys.match(ONE)
    assert keys.match(TWO)
    assert not any(keys.match(wrong) for wrong in ("", "# ours", ONE[:-1], f"{ONE}\n{TWO}", "ü"))
    assert ONE not in repr(keys)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        ("short\n", "16 or more printable ASCII"),
        (f"{ONE}\nkey with spaces in it\n", "16 or more printable ASCII"),
        (f"{ONE}\nschlüssel-der-zu-lang-ist\n", "16 or more printable ASCII"),
    ],
)
def test_load_refuses_what_cannot_be_a_key(tmp_path: Path, content: str, said: str) -> None:
    """And says which file, and never what is in it."""
    path = keys_file(tmp_path / "k", content)
    with pytest.raises(UnsafeSecret, match=said) as caught:
        load_api_keys(path)
    assert str(path) in str(caught.value)
    assert ONE not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_load_refuses_a_file_of_keys_that_is_open_to_others(tmp_path: Path, mode: int) -> None:
    """They may have been read."""
    with pytest.raises(UnsafeSecret, match="chmod 0600"):
        load_api_keys(keys_file(tmp_path / "k", ONE, mode))


def test_load_refuses_a_link(tmp_path: Path) -> None:
    """Whoever can put one there must not choose our keys."""
    keys_file(tmp_path / "real", ONE)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(UnsafeSecret, match="cannot be read"):
        load_api_keys(tmp_path / "link")


def test_load_refuses_more_than_can_be_meant(tmp_path: Path) -> None:
    """A key that is cut off somewhere would be another key."""
    with pytest.raises(UnsafeSecret, match="larger than"):
        load_api_keys(keys_file(tmp_path / "k", f"{ONE}\n" * 4000))
