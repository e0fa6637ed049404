"""The strict converter: the right type or a refusal, with the path of every problem."""

from collections.abc import Mapping
from enum import StrEnum

import attrs
import pytest
from cattrs import BaseValidationError
from hypothesis import given
from hypothesis import strategies as st

from supervisor.conversation.strict import (
    NotAllowed,
    Problem,
    absolute_path,
    duration,
    integer,
    kind_of,
    listed,
    name,
    number,
    problems_of,
    register_table,
    shown,
    size,
    strict_converter,
    text,
)


class Colour(StrEnum):
    """An enum to be read."""

    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Inner:
    """A table in a table."""

    words: tuple[str, ...] = ()
    pairs: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Outer:
    """A table with a field of every type."""

    flag: bool = False
    count: int = 0
    ratio: float = 0.0
    word: str = ""
    colour: Colour = Colour.RED
    ranged: int | None = None
    inner: Inner = attrs.field(factory=Inner)


CONVERTER = strict_converter()
register_table(CONVERTER, Inner)
register_table(CONVERTER, Outer, ranged=integer(1, 5))


def _problems(value: object) -> list[Problem]:
    with pytest.raises((BaseValidationError, NotAllowed)) as caught:
        CONVERTER.structure(value, Outer)
    return list(problems_of(caught.value, ""))


def test_converter_reads_the_right_types() -> None:
    """What has the right type comes through unchanged; a whole number is fine where a float is wanted."""
    table = {
        "flag": True,
        "count": -3,
        "ratio": 2,
        "word": "w",
        "colour": "blue",
        "ranged": 5,
        "inner": {"words": ["a"], "pairs": {"k": "v"}},
    }
    outer = CONVERTER.structure(table, Outer)
    assert outer == Outer(True, -3, 2.0, "w", Colour.BLUE, 5, Inner(("a",), {"k": "v"}))
    assert isinstance(outer.ratio, float)
    assert isinstance(outer.colour, Colour)


def test_converter_takes_none_for_an_optional_field() -> None:
    """A field that may be None stays so; its reader is not asked."""
    assert CONVERTER.structure({"ranged": None}, Outer) == Outer()


@pytest.mark.parametrize(
    ("table", "path", "message"),
    [
        ({"flag": "false"}, "flag", "must be true or false, not 'false'"),
        ({"flag": 1}, "flag", "must be true or false, not 1"),
        ({"count": True}, "count", "must be a whole number, not true"),
        ({"count": 3.0}, "count", "must be a whole number, not 3.0"),
        ({"count": 2**63}, "count", "must be a whole number, not a number"),
        ({"ratio": "1"}, "ratio", "must be a number, not '1'"),
        ({"ratio": False}, "ratio", "must be a number, not false"),
        ({"ratio": float("inf")}, "ratio", "must be a number of common size, not a number"),
        ({"ratio": float("nan")}, "ratio", "must be a number, not a number"),
        ({"word": 5}, "word", "must be a string, not a number"),
        ({"word": None}, "word", "must be a string, not null"),
        ({"word": "a\0b"}, "word", "must not contain NUL or half a surrogate pair"),
        ({"word": "\ud800"}, "word", "must not contain NUL or half a surrogate pair"),
        ({"colour": "green"}, "colour", "must be one of 'red', 'blue', not 'green'"),
        ({"colour": ["red"]}, "colour", "must be one of 'red', 'blue', not a list"),
        ({"ranged": 6}, "ranged", "must be a whole number from 1 to 5, not 6"),
        ({"inner": 5}, "inner", "must be a table of keys, not 5"),
        ({"inner": {"words": "abc"}}, "inner.words", "must be a list, not 'abc'"),
        ({"inner": {"words": ["a", 1]}}, "inner.words[1]", "must be a string, not a number"),
        ({"inner": {"pairs": ["a"]}}, "inner.pairs", "must be a table of keys, not a list"),
        ({"inner": {"pairs": {"k": True}}}, "inner.pairs.k", "must be a string, not true or false"),
        ({"inner": {"wordz": []}}, "inner.wordz", "unknown key; did you mean words?"),
        ({"xyz": 1}, "xyz", "unknown key; known are colour, count, flag, inner, ranged, ratio, word"),
        ([], "", "must be a table of keys, not a list"),
    ],
)
def test_converter_refuses_what_it_would_have_to_guess(table: object, path: str, message: str) -> None:
    """A wrong type, value or key is told with its path and with what is allowed."""
    assert _problems(table) == [Problem(path, message)]


def test_problems_of_tells_all_problems_at_once() -> None:
    """A person mends a file in one go."""
    problems = _problems({"flag": 0, "inner": {"words": [1, "ok", 2], "zz": 1, "aa": 1}, "nope": 1})
    assert [problem.path for problem in problems] == [
        "flag",
        "inner.words[0]",
        "inner.words[2]",
        "inner.aa",
        "inner.zz",
        "nope",
    ]


def test_problems_of_begins_the_path_where_it_is_told() -> None:
    """A caller's `spec` and a file's section have different roots."""
    with pytest.raises(BaseValidationError) as caught:
        CONVERTER.structure({"flag": 0}, Outer)
    assert [problem.path for problem in problems_of(caught.value, "spec")] == ["spec.flag"]
    assert list(problems_of(NotAllowed("no"), "spec")) == [Problem("spec", "no")]


def test_problems_of_passes_over_notes_that_are_not_of_cattrs() -> None:
    """Somebody else's note on an error does not hide its path."""
    with pytest.raises(BaseValidationError) as caught:
        CONVERTER.structure({"flag": 0}, Outer)
    (child,) = caught.value.exceptions
    child.__notes__.insert(0, "a plain note")
    assert [problem.path for problem in problems_of(caught.value, "")] == ["flag"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "true"),
        ("x", "'x'"),
        ("x" * 41, f"'{'x' * 40}'..."),
        (1.5, "1.5"),
        (10**100, "a number"),
        ({}, "a table"),
        ([], "a list"),
        (None, "null"),
        (b"x", "a bytes"),
    ],
)
def test_shown_is_short_and_in_the_words_of_the_file(value: object, words: str) -> None:
    """Errors show values as TOML and JSON write them."""
    assert shown(value) == words


def test_kind_of_never_shows_the_value() -> None:
    """Where a value may be a secret only its kind is told."""
    assert kind_of("hunter2") == "a string"


@pytest.mark.parametrize("value", ["", " ", "a b", "a\n", "\ta"])
def test_name_refuses_emptiness_and_spaces(value: str) -> None:
    """A name is one word."""
    with pytest.raises(NotAllowed, match="must be a name without spaces"):
        name(value)


@pytest.mark.parametrize("value", ["", "/", "//", "a/b", "./a", "/a/..", "/../a", "/.", "/a/./b"])
def test_absolute_path_refuses_what_is_relative_or_the_root(value: str) -> None:
    """A path begins at the root, leaves it and never climbs."""
    with pytest.raises(NotAllowed, match="must be an absolute path"):
        absolute_path(value)


def test_readers_take_what_they_are_for() -> None:
    """Each reader returns the value itself, or its number of seconds or bytes."""
    assert (name("bridge"), absolute_path("/srv/a b"), text("")) == ("bridge", "/srv/a b", "")
    assert (duration()("1m"), duration("0s")("0s"), size()("1KiB"), size()(5)) == (60.0, 0.0, 1024, 5)
    assert listed(integer(1, 2))([1, 2]) == (1, 2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (30, '30 is no duration; write it like "30s", "1m30s" or "500ms"'),
        (True, "true is no duration"),
        ("soon", "'soon' is no duration"),
        ("0s", "must be from 1s to 1h, not 0s"),
        ("61m", "must be from 1s to 1h, not 61m"),
    ],
)
def test_duration_refuses_bare_numbers_and_what_is_out_of_range(value: object, message: str) -> None:
    """A bare number does not say of what it is, and a range is told in the same notation."""
    with pytest.raises(ValueError, match="^" + message):
        duration("1s", "1h")(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "true is no size"),
        (1.5, '1.5 is no size; write it like "2GiB", "512MiB" or "1GB"'),
        ("2", "'2' is no size"),
        (1023, "must be from 1KiB to 1MiB, not 1023"),
        ("2MiB", "must be from 1KiB to 1MiB, not '2MiB'"),
    ],
)
def test_size_refuses_what_is_no_size_or_out_of_range(value: object, message: str) -> None:
    """Sizes are texts with a unit or whole numbers of bytes."""
    with pytest.raises(ValueError, match="^" + message):
        size("1KiB", "1MiB")(value)


@given(st.integers() | st.floats(allow_nan=True) | st.booleans())
def test_number_reads_only_finite_numbers_in_range(value: float) -> None:
    """Whatever number comes, what is let through is a float within the bounds."""
    try:
        read = number(-1, 1000)(value)
    except NotAllowed:
        assert isinstance(value, bool) or not -1 <= value <= 1000
    else:
        assert isinstance(read, float)
        assert -1 <= read <= 1000
