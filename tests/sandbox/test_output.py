"""Frames into lines, and bytes into messages."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.sandbox.docker.logs import LogLines
from supervisor.sandbox.docker.streams import JsonLines
from supervisor.sandbox.lines import LINE_MOST


def frame(stream: int, payload: bytes) -> bytes:
    """One frame as the engine writes it."""
    return struct.pack(">BxxxL", stream, len(payload)) + payload


def lines_of(*chunks: bytes) -> list[str]:
    """All lines of some chunks."""
    split = LogLines()
    return [line for chunk in chunks for line in split.feed(chunk)] + split.finish()


def test_streams_are_put_together_apart() -> None:
    """A line of stderr in the middle of one of stdout breaks neither."""
    assert lines_of(frame(1, b"one "), frame(2, b"err\n"), frame(1, b"line\r\n")) == ["err", "one line"]


def test_unended_lines_come_last() -> None:
    """What has no newline is a line all the same."""
    assert lines_of(frame(2, b"err"), frame(1, b"out"), frame(1, b"")) == ["out", "err"]


def test_bytes_that_are_no_text_are_replaced() -> None:
    """A program may print anything."""
    assert lines_of(frame(1, b"\xff\xfe\n")) == ["\N{REPLACEMENT CHARACTER}" * 2]


@pytest.mark.parametrize("length", [LINE_MOST, LINE_MOST + 1, 3 * LINE_MOST])
def test_long_lines_are_cut(length: int) -> None:
    """No line is longer than the most, and nothing is lost."""
    lines = lines_of(frame(1, b"x" * length + b"\n"))
    assert all(len(line) <= LINE_MOST for line in lines)
    assert "".join(lines) == "x" * length


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=20))), st.lists(st.integers(1, 9), min_size=1))
def test_chunks_may_be_cut_anywhere(frames: list[tuple[int, bytes]], sizes: list[int]) -> None:
    """However the network cuts the frames, the lines are the same."""
    whole = b"".join(frame(stream, payload) for stream, payload in frames)
    chunks: list[bytes] = []
    at = 0
    while at < len(whole):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(whole[at : at + size])
        at += size
    assert lines_of(*chunks) == lines_of(whole)


def test_messages_may_be_cut_anywhere() -> None:
    """One message in two chunks, two in one, and empty lines between."""
    split = JsonLines()
    assert split.feed(b'{"a": ') == []
    assert split.feed(b'1}\r\n\r\n{"b": 2}\n{') == [{"a": 1}, {"b": 2}]
