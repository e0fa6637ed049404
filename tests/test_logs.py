"""Logs: what a line holds, what it never holds, and that logging harms nobody."""

import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

import pytest
import structlog
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.logs import REDACTED, LogFormat, LogLevel, configure_logging, get_logger

SECRET = "hunter2"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


class Broken(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, _text: str) -> int:
        """Fail as a broken pipe does."""
        raise BrokenPipeError


class Unshowable:
    """A value whose own repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Leave structlog and the standard library as they were."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def _configure(
    stream: TextIO,
    level: LogLevel = LogLevel.INFO,
    log_format: LogFormat = LogFormat.AUTO,
    environ: Mapping[str, str] | None = None,
) -> None:
    configure_logging(level, log_format, stream, environ or {})


@pytest.fixture
def stream() -> io.StringIO:
    """A stream that is no terminal, configured for JSON."""
    text = io.StringIO()
    _configure(text)
    return text


def _fail(error: Exception, secret: str) -> None:
    local = secret * 2
    if len(local) >= len(secret):
        raise error


def _lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_is_one_json_object_with_time_level_and_fields(stream: io.StringIO) -> None:
    """A line begins with its time in UTC, its level and its event; the fields follow."""
    get_logger(a=1).warning("sandbox.exited", conversation="c1", exit_code=137, oom=True)
    (line,) = _lines(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(line.pop("timestamp")))
    assert line == {
        "level": "warning",
        "event": "sandbox.exited",
        "a": 1,
        "conversation": "c1",
        "exit_code": 137,
        "oom": True,
    }


def test_level_is_the_least_that_is_written(stream: io.StringIO) -> None:
    """What is below the level is dropped, and a second call changes the level of loggers that exist."""
    log = get_logger()
    log.debug("unseen")
    log.info("seen")
    _configure(stream, LogLevel.ERROR)
    log.warning("unseen")
    log.error("seen")
    _configure(stream, LogLevel.DEBUG)
    log.debug("seen")
    assert [line["event"] for line in _lines(stream)] == ["seen"] * 3


async def test_tasks_carry_what_their_actor_has_bound(stream: io.StringIO) -> None:
    """Conversation and incarnation are on each line of an actor and of its tasks, and on nobody else's."""

    async def actor(conversation: str) -> None:
        structlog.contextvars.bind_contextvars(conversation=conversation, incarnation=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task, "first")
            nursery.start_soon(task, "second")

    async def task(name: str) -> None:
        await trio.lowlevel.checkpoint()
        get_logger().info(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor, "c1")
        nursery.start_soon(actor, "c2")
    get_logger().info("daemon")
    *tasks, daemon = _lines(stream)
    assert (
        sorted((str(line["conversation"]), line["incarnation"]) for line in tasks) == [("c1", 1)] * 2 + [("c2", 1)] * 2
    )
    assert "conversation" not in daemon


def test_exception_is_a_field_with_the_traceback(stream: io.StringIO) -> None:
    """A traceback is text in one field of the one line, all members of a group included, without local variables."""
    try:
        _fail(ExceptionGroup("both", [ValueError("one"), KeyError("two")]), SECRET)
    except ExceptionGroup:
        get_logger().exception("actor.failed", conversation="c1")
    (line,) = _lines(stream)
    assert line["level"] == "error"
    assert all(part in str(line["exception"]) for part in ("Traceback", "ValueError: one", "KeyError: 'two'"))
    assert "exc_info" not in line
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize(
    "key",
    ["token", "session_key", "session_api_key", "api_key", "Authorization", "X-Session-API-Key", "github_token",
     "OH_SESSION_API_KEYS_0", "OH_SECRET_KEY", "password", "client_secret"],
)  # fmt: skip
def test_secrets_are_dropped_by_the_name_of_their_field(key: str, stream: io.StringIO) -> None:
    """However deep a field lies, one that is named like a secret loses its value."""
    get_logger().info("x", **{key: "hunter2"}, deep={"list": [{key: "hunter2"}]})
    (line,) = _lines(stream)
    assert line[key] == REDACTED
    assert line["deep"] == {"list": [{key: REDACTED}]}


@pytest.mark.parametrize("key", ["idempotency_key", "tokens", "max_tokens", "key", "author", "monkey"])
def test_what_is_no_secret_is_kept(key: str, stream: io.StringIO) -> None:
    """Names that only look alike are not dropped."""
    get_logger().info("x", **{key: "seen"})
    assert _lines(stream)[0][key] == "seen"


def test_secrets_are_dropped_on_the_console_too() -> None:
    """A terminal is no safer place."""
    terminal = Terminal()
    _configure(terminal)
    get_logger().info("x", token="hunter2", other={"api_key": "hunter2"})
    assert "hunter2" not in terminal.getvalue()
    assert REDACTED in terminal.getvalue()


def test_auto_is_console_on_a_terminal_and_json_elsewhere(stream: io.StringIO) -> None:
    """People get colours, machines JSON, and either may be chosen."""
    terminal, plain, chosen, colourless = Terminal(), io.StringIO(), Terminal(), Terminal()
    for target, log_format, environ in [
        (terminal, LogFormat.AUTO, {}),
        (plain, LogFormat.CONSOLE, {}),
        (chosen, LogFormat.JSON, {}),
        (colourless, LogFormat.AUTO, {"NO_COLOR": "1"}),
    ]:
        _configure(target, log_format=log_format, environ=environ)
        get_logger().info("hello", a=1)
    assert "\x1b[" in terminal.getvalue()
    assert "\x1b[" not in plain.getvalue() + colourless.getvalue()
    assert re.search(r"\[info +\] hello +a=1$", plain.getvalue().strip())
    assert _lines(chosen)[0]["event"] == "hello"


def test_console_shows_tracebacks_without_local_variables() -> None:
    """A traceback for people is the plain one."""
    terminal = Terminal()
    _configure(terminal)
    try:
        _fail(ValueError("no"), SECRET)
    except ValueError:
        get_logger().exception("failed")
    assert "ValueError: no" in terminal.getvalue()
    assert "hunter2" not in terminal.getvalue()


def test_what_others_wrote_drives_no_terminal() -> None:
    """Neither as an event, which other libraries' warnings are, nor as a field or in a traceback: it is escaped."""
    plain = io.StringIO()
    _configure(plain, log_format=LogFormat.CONSOLE)
    hostile = "\x1b]0;title\x07\x9b2J\u202e\r\nforged"
    get_logger().error(hostile, field="\x1b]0;title\x07", exc_info=ValueError(hostile))
    shown = plain.getvalue()
    assert shown.count("\\x1b]0;title\\x07") == 3
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
    assert shown.startswith("20")
    assert "forged" in shown.splitlines()[0]


def test_journal_stream_gets_priorities(tmp_path: Path) -> None:
    """On a stream that is the journal's each line begins with the priority that journald files it by."""
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        _configure(stream, LogLevel.DEBUG, environ={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(get_logger(), level)("x")
        stream.seek(0)
        lines = stream.read().splitlines()
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert [json.loads(line[3:])["event"] for line in lines] == ["x"] * 5


def test_journal_stream_gets_a_priority_on_every_line_of_a_console_event(tmp_path: Path) -> None:
    """An event of several lines, as one with a traceback, is filed by its own level and not by the unit's default."""
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        configure_logging(LogLevel.INFO, LogFormat.CONSOLE, stream, environ)
        get_logger().warning("x", exc_info=RuntimeError("broken"))
        stream.seek(0)
        lines = stream.read().splitlines()
    assert len(lines) > 1
    assert {line[:3] for line in lines} == {"<4>"}


def test_another_stream_than_the_journals_gets_no_priorities(tmp_path: Path) -> None:
    """Under systemd, but sent to a file: the variable names another stream."""
    with (tmp_path / "log").open("w+") as stream:
        _configure(stream, environ={"JOURNAL_STREAM": "1:1"})
        get_logger().info("x")
        stream.seek(0)
        assert stream.read().startswith("{")


@pytest.mark.parametrize("closed", [False, True])
def test_a_stream_that_takes_nothing_harms_nobody(closed: bool) -> None:
    """A broken pipe or a closed file does not raise into who logs."""
    stream: io.StringIO = io.StringIO() if closed else Broken()
    _configure(stream)
    if closed:
        stream.close()
    get_logger().error("lost", token="x")
    assert stream.closed == closed


def test_a_pipe_that_was_closed_harms_nobody() -> None:
    """The same with a real one: lines are lost, however many, and the caller goes on."""
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    _configure(stream)
    os.close(reader)
    for _ in range(100):
        get_logger().info("lost", text="x" * 1000)
    assert not stream.closed
    with pytest.raises(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize("log_format", [LogFormat.JSON, LogFormat.CONSOLE])
def test_a_value_that_cannot_be_shown_harms_nobody(log_format: LogFormat) -> None:
    """The line is written without its fields, and says why."""
    stream = io.StringIO()
    _configure(stream, log_format=log_format)
    get_logger().info("odd", value=Unshowable())
    assert "odd" in stream.getvalue()
    assert "RuntimeError" in stream.getvalue()


def test_values_of_any_kind_become_json(stream: io.StringIO) -> None:
    """Paths, sets, numbers that JSON lacks, odd keys and endless nesting all come out as something readable."""
    endless: list[object] = []
    endless.append(endless)
    get_logger().info("x", path=Path("/a"), some={1}, nan=float("nan"), half=0.5, keys={1: {None: 2}}, endless=endless)
    (line,) = _lines(stream)
    assert line["path"] == "PosixPath('/a')"
    assert (line["some"], line["nan"], line["half"], line["keys"]) == ([1], "nan", 0.5, {"1": {"None": 2}})
    assert str(line["endless"]).startswith("[[[[")


def test_other_libraries_warnings_are_routed_in(stream: io.StringIO) -> None:
    """From WARNING on, with the logger's name and the traceback; below it nothing."""
    log = logging.getLogger("urllib3.connectionpool")
    log.info("unseen")
    log.warning("retrying %s", "/x")
    log.log(logging.ERROR + 3, "between the levels")
    try:
        _fail(OSError("gone"), "")
    except OSError:
        log.exception("failed")
    lines = _lines(stream)
    assert [(line["level"], line["event"]) for line in lines] == [
        ("warning", "retrying /x"),
        ("error", "between the levels"),
        ("error", "failed"),
    ]
    assert {line["logger"] for line in lines} == {"urllib3.connectionpool"}
    assert "OSError: gone" in str(lines[2]["exception"])


def test_a_record_whose_arguments_do_not_fit_harms_nobody(stream: io.StringIO) -> None:
    """Another library's broken log call costs it the arguments, and us nothing."""
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if type(handler).__module__ == "supervisor.logs"]
    logging.getLogger("docker").warning("bad %d", "arguments")
    assert [line["event"] for line in _lines(stream)] == ["bad %d"]


def test_other_libraries_are_routed_in_once(stream: io.StringIO) -> None:
    """Configuring again, as a reload does, doubles no line."""
    _configure(stream)
    logging.getLogger("docker").error("once")
    assert len(_lines(stream)) == 1


def test_python_warnings_are_routed_in(stream: io.StringIO) -> None:
    """A warning is a line like any other, not free text between them."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = _lines(stream)
    assert line["logger"] == "py.warnings"
    assert "DeprecationWarning: old" in str(line["event"])


def test_configure_logging_writes_to_standard_error_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    """The daemon's own stream needs no naming, and standard output stays clean."""
    configure_logging(LogLevel.INFO, LogFormat.JSON)
    get_logger().info("x")
    out, err = capsys.readouterr()
    assert (out, json.loads(err)["event"]) == ("", "x")


field_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.text(), field_values)
def test_any_event_with_any_value_is_one_line_of_json(stream: io.StringIO, event: str, value: object) -> None:
    """Line breaks, control characters and half characters never break a line in two or out of JSON."""
    stream.seek(0)
    stream.truncate()
    get_logger().info(event, value=value)
    assert stream.getvalue().count("\n") == 1
    assert json.loads(stream.getvalue())["event"] == event
