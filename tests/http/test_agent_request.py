"""The file that lies under every start over the V1 routes."""

import os
from pathlib import Path

import pytest

from supervisor.conversation.json import JsonObject
from supervisor.http.agent_request import lay_over, load_agent_request
from supervisor.secret_file import UnsafeSecret


def request_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    """A file with what agents are handed."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_load_reads_an_object_in_utf_8(tmp_path: Path) -> None:
    """Without a file there is nothing."""
    path = request_file(tmp_path / "request.json", '{"agent_settings": {"llm": {"model": "größer"}}}'.encode())
    assert load_agent_request(path) == {"agent_settings": {"llm": {"model": "größer"}}}
    assert load_agent_request(None) == {}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"very-secret"', b'{"very-secret": NaN}', b'{"very-secret": \xff}']
)
def test_load_refuses_what_is_no_object(tmp_path: Path, content: bytes) -> None:
    """And says which file, and never what is in it."""
    path = request_file(tmp_path / "request.json", content)
    with pytest.raises(UnsafeSecret, match="holds no JSON object") as caught:
        load_agent_request(path)
    assert str(path) in str(caught.value)
    assert "very-secret" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize(
    ("mode", "size", "said"),
    [(0o640, 2, "has mode 0640, others may read it"), (0o604, 2, "has mode 0604"), (0o600, 65537, "larger than 65536")],
)
def test_load_refuses_a_file_that_is_not_ours_alone_or_too_large(
    tmp_path: Path, mode: int, size: int, said: str
) -> None:
    """As for every file with a secret."""
    with pytest.raises(UnsafeSecret, match=said):
        load_agent_request(request_file(tmp_path / "request.json", b"{}".ljust(size), mode))
    assert load_agent_request(request_file(tmp_path / "large.json", b"{}".ljust(65536))) == {}


def test_load_makes_no_file_and_follows_no_link(tmp_path: Path) -> None:
    """What is named has to be there: nobody else knows what belongs into it."""
    path = tmp_path / "request.json"
    with pytest.raises(UnsafeSecret, match="cannot be read: No such file"):
        load_agent_request(path)
    assert not path.exists()
    path.symlink_to(request_file(tmp_path / "elsewhere", b"{}"))
    with pytest.raises(UnsafeSecret, match="cannot be read"):
        load_agent_request(path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(UnsafeSecret, match="is not a regular file"):
        load_agent_request(tmp_path / "fifo")


def test_lay_over_merges_objects_and_replaces_the_rest() -> None:
    """Neither of the two is changed."""
    base: JsonObject = {"a": {"b": 1, "c": [1]}, "d": {"e": 1}, "f": None}
    top: JsonObject = {"a": {"c": [2], "g": {}}, "d": 5, "f": {"h": 1}}
    assert lay_over(base, top) == {"a": {"b": 1, "c": [2], "g": {}}, "d": 5, "f": {"h": 1}}
    assert (base["a"], top["d"]) == ({"b": 1, "c": [1]}, 5)
    assert lay_over({}, {}) == {}
