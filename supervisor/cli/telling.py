"""Events as sentences."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from rich.text import Text

from supervisor.cli.amounts import amount, span
from supervisor.control.client_views import Event, EventData
from supervisor.control.views import format_time
from supervisor.conversation.json import JsonObject
from supervisor.safe_text import one_line

STATUS_STYLES: Final = {
    "STARTING": "yellow",
    "RUNNING": "green",
    "PAUSED": "cyan",
    "STOPPED": "dim",
    "ARCHIVED": "dim",
    "ERROR": "bold red",
}
_KIND_WIDTH: Final = 17


def event_line(event: Event) -> Text:
    """One line for one event: number, local time, conversation, kind, and what happened."""
    text = Text()
    text.append(f"{event.seq:>6}  ", "dim")
    text.append(f"{local_time(event.at)}  ", "dim")
    text.append(f"{one_line(event.conversation or '-')}  ", "bold")
    text.append(f"{one_line(event.kind):<{_KIND_WIDTH}}  ")
    text.append_text(sentence(event))
    return text


def sentence(event: Event) -> Text:
    """What happened; an event of a kind that this client does not know is shown as its data."""
    tell = _SENTENCES.get(event.kind)
    if tell is not None:
        return tell(_Fields(event.data))
    return Text(one_line(json.dumps(event.data, ensure_ascii=False)))


def event_json(event: Event) -> JsonObject:
    """The event as the protocol has it."""
    return {
        "seq": event.seq,
        "at": format_time(event.at),
        "conversation": event.conversation,
        "kind": event.kind,
        "data": event.data,
    }


def local_time(at: datetime) -> str:
    """A time as the clock on the wall shows it, to the millisecond."""
    return at.astimezone().isoformat(sep=" ", timespec="milliseconds")[: len("2026-01-01 00:00:00.000")]


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(one_line(status), STATUS_STYLES.get(status, ""))


class _Fields:
    """An event's data, read leniently: a newer daemon may leave out or add fields."""

    def __init__(self, data: EventData | Mapping[str, object]) -> None:
        self._data = data

    def text(self, name: str, otherwise: str = "") -> str:
        value = self._data.get(name)
        return otherwise if value is None else one_line(str(value))

    def number(self, name: str) -> float:
        value = self._data.get(name)
        return float(value) if isinstance(value, int | float) else 0.0

    def reason(self, *names: str) -> str:
        """The first of these fields that is there, as the end of a sentence."""
        return next((f": {self.text(name)}" for name in names if self.text(name)), "")


def _created(data: _Fields) -> Text:
    return Text(f"agent {data.text('agent')}, image {data.text('image')}")


def _status(data: _Fields) -> Text:
    line = Text()
    if before := data.text("from"):
        line.append_text(status_text(before)).append(" -> ")
    line.append_text(status_text(data.text("to")))
    return line.append(f" ({data.text('reason')}){data.reason('message')}")


def _phase(data: _Fields) -> Text:
    return Text(f"{data.text('phase')} of incarnation {data.text('incarnation')}")


def _progress(data: _Fields) -> Text:
    current, total = int(data.number("current")), int(data.number("total"))
    share = f"{current / total:.0%}, " if total else ""
    return Text(f"{data.text('phase')} {share}{amount(current)} of {amount(total)}")


def _execution(data: _Fields) -> Text:
    return Text(f"the agent is {data.text('to', 'gone')} (was {data.text('from', 'unknown')})")


def _restart_scheduled(data: _Fields) -> Text:
    line = Text(f"restart {data.text('restarts')} in {span(data.number('delay'))} after {data.text('cause')}", "yellow")
    return line.append(data.reason("message"))


def _health(data: _Fields) -> Text:
    return Text(f"{data.text('observed')}{data.reason('message')}")


def _command(data: _Fields) -> Text:
    failed = "red" if data.text("error") else ""
    line = Text(f"{data.text('command')} {data.text('outcome')}", failed)
    return line.append(data.reason("message", "error"))


def _alert(data: _Fields) -> Text:
    is_over = data.text("state") == "over"
    line = Text(f"{data.text('kind')} {data.text('state')}", "green" if is_over else "bold red")
    line.append(data.reason("message"))
    return line.append(f" ({data.text('cause')}, alert {data.text('id')})", "dim")


def _deleted(_: _Fields) -> Text:
    return Text("record and workspace are gone")


def _daemon(data: _Fields) -> Text:
    return Text(f"{data.text('what')}{data.reason('message')}")


_SENTENCES: Final[Mapping[str, Callable[[_Fields], Text]]] = {
    "created": _created,
    "status": _status,
    "phase": _phase,
    "progress": _progress,
    "execution": _execution,
    "restart_scheduled": _restart_scheduled,
    "health": _health,
    "command": _command,
    "alert": _alert,
    "deleted": _deleted,
    "daemon": _daemon,
}
