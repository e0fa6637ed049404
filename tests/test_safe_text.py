"""What a sandbox says must not drive the terminal."""

import pytest

from supervisor.safe_text import log_line, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u00e9\u2713", "plain \u00e9\u2713"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
    ],
)
def test_one_line_shows_control_characters_as_escapes(text: str, shown: str) -> None:
    """Line breaks, too: a table's row stays a row."""
    assert one_line(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tab\tstays\r", "tab\tstays"),
        ("\x1b[1;31mred", "\x1b[1;31mred\x1b[0m"),
        ("\x1b[2Jcleared", "\\x1b[2Jcleared"),
        ("\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),
    ],
)
def test_log_line_keeps_colours_and_nothing_else(text: str, shown: str) -> None:
    """A colour that is not ended does not run into the next line."""
    assert log_line(text) == shown
