"""Durations and sizes: what people write, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.conversation.units import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("700ms", 0.7),
        ("2h", 7200.0),
        ("7d", 604800.0),
        ("1d2h3m4s5ms", 93784.005),
        ("1.5s", 1.5),
        ("0s", 0.0),
        ("1m5ms", 60.005),
    ],
)
def test_parse_duration_reads_what_people_write(text: str, seconds: float) -> None:
    """Units add up, in seconds, without a rounding error."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "soon", "30", "s", "-1s", "1s1m", "1s1s", "1 s", " 1s", "1s ", "1S", "1.s", ".5s", "1e3s", "٣s", "infs"],
)
def test_parse_duration_refuses_everything_else(text: str) -> None:
    """The error shows how a duration is written."""
    with pytest.raises(ValueError, match=r'is no duration; write it like "30s", "1m30s" or "500ms"'):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1024B", 1024),
        ("1kB", 1000),
        ("1KB", 1000),
        ("512MiB", 512 * 1024**2),
        ("1GB", 10**9),
        ("2GiB", 2 * 1024**3),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("1TB", 10**12),
        ("1TiB", 1024**4),
        ("0.1GiB", 107374182),
    ],
)
def test_parse_size_reads_what_people_write(text: str, count: int) -> None:
    """Powers of ten and of two are told apart; a part of a byte is dropped."""
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text", ["", "big", "1024", "GiB", "-1B", "1 GiB", "1G", "1gib", "1GIB", "1e3B", "1GiB\n", "²B"]
)
def test_parse_size_refuses_everything_else(text: str) -> None:
    """The error shows how a size is written."""
    with pytest.raises(ValueError, match=r'is no size; write it like "2GiB", "512MiB" or "1GB"'):
        parse_size(text)


def test_units_shorten_what_they_show() -> None:
    """A whole novel in place of a duration does not fill the terminal, nor take time."""
    with pytest.raises(ValueError, match="no duration") as caught:
        parse_duration("9" * 1_000_000 + "s")
    assert len(str(caught.value)) < 120


@given(*(st.integers(0, 9999) for _ in range(5)))
def test_parse_duration_is_the_sum_of_its_parts(days: int, hours: int, minutes: int, seconds: int, millis: int) -> None:
    """Every combination of units is the same number of milliseconds as by hand."""
    total = (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000 + millis
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s{millis}ms") == total / 1000


@given(st.text(alphabet="0123456789.dhms -e", max_size=12))
def test_parse_duration_answers_any_text_with_a_number_or_an_error(text: str) -> None:
    """No text makes anything but a finite number that is not negative, or a ValueError."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds < 1e18


@given(st.integers(0, 10**12 - 1), st.sampled_from([("B", 1), ("MiB", 2**20), ("GB", 10**9), ("TiB", 2**40)]))
def test_parse_size_is_exact_for_whole_numbers(number: int, unit: tuple[str, int]) -> None:
    """No byte is lost on the way."""
    assert parse_size(f"{number}{unit[0]}") == number * unit[1]
