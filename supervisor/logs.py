"""Logs: one event with fields for each line, JSON for machines, colours for people.

Every line carries what its task has bound by `structlog.contextvars`: a conversation's tasks, and what they start, its
id. Other libraries' warnings come through the same way. Secrets are dropped by the name of their field, and a line that
cannot be written, or not even rendered, is no error of whoever logged it.
"""

import json
import logging
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from enum import StrEnum
from io import StringIO
from typing import Final, TextIO, TypeAlias, cast

import structlog
from structlog.typing import EventDict, ExcInfo, FilteringBoundLogger, WrappedLogger

from supervisor.safe_text import one_line

_Renderer: TypeAlias = Callable[[EventDict], str]

REDACTED: Final = "[redacted]"
_SECRET = re.compile(
    r"(token|secret|password|passphrase|authorization|cookie|(api|session|secret|private|access)[_-]?keys?)(_\d+)?$",
    re.IGNORECASE,
)
_DEEPEST: Final = 8
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_FIRST: Final = ("timestamp", "level", "event")


class LogLevel(StrEnum):
    """The least level that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How lines look; `auto` is `console` on a terminal and `json` elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


def configure_logging(
    level: LogLevel,
    log_format: LogFormat,
    stream: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Send all logs to `stream` (standard error) from now on; call it again to change level or format while running.

    On a stream that is the journal's (`$JOURNAL_STREAM`) every line begins with its priority, which journald takes
    off and files. Warnings of other libraries, and Python's own, are routed in.
    """
    target = sys.stderr if stream is None else stream
    writer = _LineWriter(target)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _unfailing(_renderer(log_format, target, environ)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level.value),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=False,
    )
    _route_stdlib()


def get_logger(**fields: object) -> FilteringBoundLogger:
    """Get a logger that puts these fields on each of its lines: `log.info("sandbox.exited", exit_code=137)`."""
    return cast("FilteringBoundLogger", structlog.get_logger(**fields))


class _LineWriter:
    """Writes lines, each whole, and drops what the stream does not take: a broken pipe must not end an actor."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        with self._lock:
            try:
                self._stream.write(f"{line}\n")
                self._stream.flush()
            except (OSError, ValueError):  # ValueError is what a closed file raises
                return

    debug = info = warning = error = critical = write


def _renderer(log_format: LogFormat, stream: TextIO, environ: Mapping[str, str]) -> _Renderer:
    terminal = stream.isatty()
    render: _Renderer = _json_line
    if log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and terminal):
        render = _console_renderer(colours=terminal and not environ.get("NO_COLOR"))
    return _with_priority(render) if _is_journal(stream, environ) else render


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # a stream without a file
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _json_line(event: EventDict) -> str:
    event = structlog.processors.format_exc_info(None, "", event)
    return json.dumps(_plain({**{key: event[key] for key in _FIRST}, **event}))


def _console_renderer(*, colours: bool) -> _Renderer:
    render = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=_write_traceback)

    def line(event: EventDict) -> str:
        exc_info = event.pop("exc_info", None)
        fields = {name: _harmless(value) for name, value in _redacted(event, 0).items()}
        return render(None, "", {**fields, "exc_info": exc_info})

    return line


def _harmless(value: object) -> object:
    """The renderer shows events, and texts without spaces, as they are: what is in them must not drive a terminal."""
    return one_line(value) if isinstance(value, str) else value


def _write_traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    """Not the pretty one: it shows local variables, and those hold secrets."""
    written = StringIO()
    structlog.dev.plain_traceback(written, exc_info)
    stream.write("\n".join(one_line(line) for line in written.getvalue().split("\n")))


def _with_priority(render: _Renderer) -> _Renderer:
    def lines(event: EventDict) -> str:
        priority = f"<{_PRIORITIES[event['level']]}>"
        return "\n".join(f"{priority}{line}" for line in render(event).split("\n"))

    return lines


def _unfailing(render: _Renderer) -> Callable[[WrappedLogger, str, EventDict], str]:
    """Make rendering a processor that cannot raise: whoever logs a value that cannot be shown is not to fail for it."""

    def process(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
        told = {key: event[key] for key in _FIRST}
        try:
            return render(event)
        except Exception as error:  # noqa: BLE001 - a value's own repr may raise anything
            return render({**told, "event": str(told["event"]), "unrendered": type(error).__name__})

    return process


def _plain(value: object, depth: int = 0) -> object:
    """Make of any value one that JSON can hold, without the secrets in it."""
    match value:
        case str() | bool() | int() | None:
            return value
        case float():
            return value if math.isfinite(value) else repr(value)
        case Mapping() if depth < _DEEPEST:
            return _redacted(value, depth + 1)
        case list() | tuple() | set() | frozenset() if depth < _DEEPEST:
            return [_plain(item, depth + 1) for item in value]
    return repr(value)


def _redacted(fields: Mapping[str, object], depth: int) -> dict[str, object]:
    return {str(key): REDACTED if _SECRET.search(str(key)) else _plain(value, depth) for key, value in fields.items()}


class _StdlibRoute(logging.Handler):
    """Hands the standard library's records to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - the arguments do not fit the message, and anything can be one
            message = str(record.msg)
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        get_logger().log(level, message, logger=record.name, exc_info=record.exc_info)


def _route_stdlib() -> None:
    root = logging.getLogger()
    if not any(isinstance(handler, _StdlibRoute) for handler in root.handlers):
        root.addHandler(_StdlibRoute(logging.WARNING))
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
