"""Where output goes: results to standard output, everything said beside them to standard error."""

import json
import os
import sys
from typing import Final, TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from supervisor.conversation.json import JsonValue
from supervisor.safe_text import log_line, one_line

_UNLIMITED: Final = 10_000


class Screen:
    """The two streams of a command. With `as_json` there is JSON only, one document a line, on both of them."""

    def __init__(self, *, as_json: bool, no_color: bool) -> None:
        self.as_json: Final = as_json
        self.out: Final = _console(sys.stdout, no_color=no_color)
        self.err: Final = _console(sys.stderr, no_color=no_color)

    @property
    def shows_live(self) -> bool:
        """Whether standard output is a terminal that can be drawn on."""
        return not self.as_json and _draws(self.out)

    @property
    def shows_progress(self) -> bool:
        """Whether standard error is one."""
        return not self.as_json and _draws(self.err)

    def show(self, renderable: RenderableType) -> None:
        """Print a result for a person."""
        if self.out.is_terminal:
            self.out.print(renderable)
            return
        with self.out.capture() as captured:
            self.out.print(renderable)
        # Columns are padded, which is for the eye only.
        for line in captured.get().splitlines():
            _write(sys.stdout, line.rstrip())

    def show_json(self, value: JsonValue) -> None:
        """Print a result for a program."""
        _write(sys.stdout, json.dumps(value, separators=(",", ":")))

    def show_log_line(self, line: str) -> None:
        """Print a line of a sandbox's output: as it is, but for what would drive a terminal that it is shown on."""
        _write(sys.stdout, log_line(line) if self.out.is_terminal else line)

    def note(self, sentence: str) -> None:
        """Say something beside the result, to a person only."""
        if not self.as_json:
            self.err.print(Text(one_line(sentence)), soft_wrap=True)

    def complain(self, renderable: RenderableType) -> None:
        """Say what went wrong, to a person."""
        self.err.print(renderable, soft_wrap=True)

    def complain_json(self, value: JsonValue) -> None:
        """Say what went wrong, to a program."""
        _write(sys.stderr, json.dumps(value, separators=(",", ":")))


class _Console(Console):
    """A console that leaves a closed pipe to whoever prints; rich's own would end the process with code 1."""

    def on_broken_pipe(self) -> None:
        """Called while the error is handled: let it go on."""
        raise BrokenPipeError


def _console(stream: TextIO, *, no_color: bool) -> Console:
    # Whoever reads from a pipe wants whole lines, however long.
    width = None if stream.isatty() or "COLUMNS" in os.environ else _UNLIMITED
    # None lets rich look at NO_COLOR itself.
    return _Console(file=stream, width=width, no_color=no_color or None, highlight=False, markup=False, emoji=False)


def _draws(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def _write(stream: TextIO, line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()
