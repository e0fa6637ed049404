"""Bytes and times as people read them."""

import pytest

from supervisor.cli.amounts import age, amount, span


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1.0, "0.0s"), (0.34, "0.3s"), (42.9, "42s"), (60.0, "1m"), (190.0, "3m10s"), (7500.0, "2h5m"), (2e5, "2d7h")],
)
def test_span_has_two_units_at_most(seconds: float, words: str) -> None:
    """The largest one that fits and the next."""
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(-5.0, "0s"), (59.9, "59s"), (200.0, "3m"), (7300.0, "2h"), (9e5, "10d")]
)
def test_age_has_one_unit(seconds: float, words: str) -> None:
    """The largest one that fits; a clock that was set back makes nothing negative."""
    assert age(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_340_000, "2.3 MB"), (5 * 10**15, "5000.0 TB")]
)
def test_amount_has_the_unit_that_fits(count: int, words: str) -> None:
    """Up to terabytes."""
    assert amount(count) == words
