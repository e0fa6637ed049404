"""What the daemon answers, as tables and sentences for people."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import attrs
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from supervisor.cli.amounts import age, span
from supervisor.cli.telling import local_time, status_text
from supervisor.control.client_views import Access, Conversation, Daemon, FailureView
from supervisor.conversation.record import ExecutionStatus, Observed, Phase
from supervisor.safe_text import log_line, one_line

_NOTHING: Final = "-"
_BOTH_LEAST: Final = 44
_IMAGE_LEAST: Final = 16
_UNLIMITED: Final = 10_000
_EXECUTION_STYLES: Final = {
    ExecutionStatus.RUNNING: "green",
    ExecutionStatus.WAITING_FOR_CONFIRMATION: "magenta",
    ExecutionStatus.ERROR: "red",
    ExecutionStatus.STUCK: "red",
}
_EXECUTION_WORDS: Final = {ExecutionStatus.WAITING_FOR_CONFIRMATION: "waiting"}
_OBSERVED_STYLES: Final = {Observed.UNKNOWN: "yellow", Observed.COLD: "dim"}


@attrs.frozen
class _Layout:
    """How much room the columns take."""

    gap: int
    restarts: str


_WIDE: Final = _Layout(2, "RESTARTS")
_NARROW: Final = _Layout(1, "RST")


class ConversationTable:
    """Conversations, one a row. Where there is little room the image goes, and errors are told below the table.

    `pulls` says how far the image of a conversation has come, in words like `43%`.
    """

    def __init__(
        self, conversations: Sequence[Conversation], now: datetime, pulls: Mapping[str, str] | None = None
    ) -> None:
        self._conversations = conversations
        self._now = now
        self._pulls = pulls or {}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay it out for the width that there is."""
        spare = self._spare(_WIDE, console, options)
        if spare >= _BOTH_LEAST:
            image = min(self._widest_image, spare // 2)
            yield self._table(_WIDE, image, spare - image)
            return
        spare = self._spare(_NARROW, console, options)
        yield self._table(_NARROW, spare if spare >= _IMAGE_LEAST else 0)
        failed = [each for each in self._conversations if each.error is not None]
        if failed:
            yield Text()
        for each in failed:
            yield Text.assemble((one_line(each.id), "bold"), ": ", _brief_failure(each))

    @property
    def _widest_image(self) -> int:
        return max((len(_image(each)) for each in self._conversations), default=0)

    def _spare(self, layout: "_Layout", console: Console, options: ConsoleOptions) -> int:
        """How much room is left for the columns that may be cut."""
        taken = console.measure(self._table(layout), options=options.update(max_width=_UNLIMITED)).maximum
        return options.max_width - taken - 2 * layout.gap

    def _table(self, layout: "_Layout", image: int = 0, error: int = 0) -> Table:
        """The table; with columns for image and error if they are given a width."""
        table = Table(box=None, padding=(0, layout.gap, 0, 0), pad_edge=False, header_style="bold")
        for header in ("ID", "STATUS", "AGENT", "SEEN"):
            table.add_column(header, no_wrap=True)
        for header in ("BOOT", layout.restarts, "AGE"):
            table.add_column(header, no_wrap=True, justify="right")
        if image:
            table.add_column("IMAGE", no_wrap=True, max_width=image)
        if error:
            table.add_column("ERROR", no_wrap=True, max_width=error)
        for each in self._conversations:
            flexible = (_image(each),) * bool(image) + (_brief_failure(each),) * bool(error)
            table.add_row(*self._cells(each), *flexible)
        return table

    def _cells(self, each: Conversation) -> Iterator[Text]:
        yield Text(one_line(each.id), "bold")
        yield self._status(each)
        yield execution_text(each.execution_status)
        yield Text(each.observed, _OBSERVED_STYLES.get(each.observed, ""))
        yield Text(str(each.incarnation))
        yield Text(str(each.restarts), "yellow" if each.restarts else "")
        yield Text(age((self._now - each.created_at).total_seconds()))

    def _status(self, each: Conversation) -> Text:
        text = status_text(each.status)
        if each.phase is not None:
            pulled = f" {self._pulls[each.id]}" if each.phase is Phase.IMAGE and each.id in self._pulls else ""
            text.append(f" {each.phase}{pulled}", "dim")
        elif each.next_restart_at is not None:
            wait = (each.next_restart_at - self._now).total_seconds()
            text.append(f" in {span(wait)}", "dim")
        return text


def execution_text(execution: ExecutionStatus | None) -> Text:
    """What the agent does, in a word and its colour."""
    if execution is None:
        return Text(_NOTHING, "dim")
    return Text(_EXECUTION_WORDS.get(execution, execution), _EXECUTION_STYLES.get(execution, ""))


def conversation_details(each: Conversation, now: datetime) -> RenderableType:
    """Everything about one conversation."""
    grid = _grid()
    grid.add_row("id", Text(one_line(each.id), "bold"))
    grid.add_row("status", status_text(each.status))
    if each.phase is not None:
        grid.add_row("phase", each.phase)
    grid.add_row("agent", Text.assemble(one_line(each.agent), ", ", execution_text(each.execution_status)))
    grid.add_row("observed", Text(each.observed, _OBSERVED_STYLES.get(each.observed, "")))
    grid.add_row("incarnation", f"{each.incarnation}, restarted {each.restarts} times by the supervisor")
    if each.next_restart_at is not None:
        grid.add_row("next restart", local_time(each.next_restart_at))
    if each.sandbox is not None:
        grid.add_row("sandbox", Text(one_line(f"{each.sandbox.provider} {each.sandbox.name}")))
        grid.add_row("sandbox id", Text(one_line(each.sandbox.id or _NOTHING)))
        grid.add_row("image", Text(one_line(each.sandbox.image)))
        grid.add_row("url", Text(one_line(each.sandbox.url or _NOTHING)))
    for key, value in each.labels.items():
        grid.add_row("label", Text(one_line(f"{key}={value}")))
    for name, at in (("created", each.created_at), ("updated", each.updated_at), ("active", each.last_active_at)):
        grid.add_row(name, f"{local_time(at)} ({age((now - at).total_seconds())} ago)")
    return grid if each.error is None else Group(grid, Text(), _failure_details(each.error))


def conversation_sentence(each: Conversation) -> Text:
    """Where a conversation stands after a command."""
    text = Text.assemble((one_line(each.id), "bold"), " is ", status_text(each.status))
    if each.sandbox is not None and each.sandbox.url is not None and each.observed is Observed.LIVE:
        text.append(f" at {one_line(each.sandbox.url)}")
    if each.error is not None:
        text.append(": ").append_text(_brief_failure(each))
    return text


def stopped_sentence(each: Conversation, *, was_running: bool) -> Text:
    """Where a conversation stands after `stop`."""
    if was_running:
        return conversation_sentence(each)
    return Text.assemble((one_line(each.id), "bold"), " was not running; it is ", status_text(each.status))


def daemon_details(daemon: Daemon) -> RenderableType:
    """Everything about the daemon."""
    engine, capacity = daemon.engine, daemon.capacity
    grid = _grid()
    grid.add_row("daemon", Text(one_line(f"{daemon.name} {daemon.version}"), "bold"))
    grid.add_row("protocol", Text(one_line(daemon.protocol)))
    grid.add_row("pid", str(daemon.pid))
    grid.add_row("up for", f"{span(daemon.uptime)}, since {local_time(daemon.started_at)}")
    grid.add_row("instance", Text(one_line(daemon.instance)))
    answers = Text("answers", "green") if engine.reachable else Text("does not answer", "bold red")
    versions = one_line(f", version {engine.version or '?'}, API {engine.api_version or '?'}")
    grid.add_row("engine", Text.assemble(one_line(engine.provider) + " ", answers, versions))
    if engine.caution:
        grid.add_row("caution", Text(one_line(engine.caution), "yellow"))
    grid.add_row("active", _of_most(capacity.running, capacity.max_running))
    grid.add_row("starting", _of_most(capacity.starting, capacity.max_starting))
    grid.add_row("last event", str(daemon.seq))
    return grid


def access_details(access: Access) -> RenderableType:
    """How to reach an agent server."""
    grid = _grid()
    grid.add_row("url", Text(one_line(access.url)))
    grid.add_row("session_api_key", Text(one_line(access.session_api_key)))
    return grid


def _of_most(now: int, most: int) -> str:
    return f"{now} of at most {most}" if most else f"{now}, without limit"


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def _image(each: Conversation) -> Text:
    return Text(one_line(each.sandbox.image)) if each.sandbox else Text(_NOTHING, "dim")


def _brief_failure(each: Conversation) -> Text:
    failure = each.error
    return Text(one_line(f"{failure.code}: {failure.message}") if failure else "", "red")


def _failure_details(failure: FailureView) -> RenderableType:
    grid = _grid()
    grid.add_row("error", Text(one_line(failure.code), "bold red"))
    grid.add_row("why", Text(one_line(failure.message)))
    grid.add_row("at", local_time(failure.at))
    if failure.exit_code is not None:
        grid.add_row("exit code", str(failure.exit_code))
    if failure.oom_killed is not None:
        grid.add_row("out of memory", "yes" if failure.oom_killed else "no")
    if not failure.log_tail:
        return grid
    lines = [Text.assemble("  ", Text.from_ansi(log_line(line))) for line in failure.log_tail]
    return Group(grid, Text("last output", "dim"), *lines)
