"""Views as the daemon's answers make them, for what only draws them."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
from rich.console import Console, RenderableType

from supervisor.control.client_views import Conversation, Event, EventData, SandboxView
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import Observed

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UUID = "0d4c7bd0-6b1c-4d6c-9c0f-0123456789ab"


def conversation(name: str = "c1", **changes: Any) -> Conversation:  # noqa: ANN401 - any field
    """A running conversation, five minutes old, with some fields changed."""
    running = Conversation(
        id=name,
        agent="v1",
        status=Status.RUNNING,
        observed=Observed.LIVE,
        incarnation=1,
        restarts=0,
        created_at=NOW - timedelta(minutes=5),
        updated_at=NOW,
        last_active_at=NOW,
        sandbox=SandboxView("docker", "conversationd-c1-1", "agent:latest", "3f2a", "http://127.0.0.1:49153"),
    )
    return attrs.evolve(running, **changes)


def event(kind: str, /, seq: int = 1, at: datetime = NOW, about: str | None = "c1", **data: Any) -> Event:  # noqa: ANN401 - any data
    """An event; `before` stands for the field `from`."""
    fields = {"from" if name == "before" else name: value for name, value in data.items()}
    return Event(seq, at, about, kind, EventData(fields))


def drawn(renderable: RenderableType, width: int = 200, height: int = 24, *, terminal: bool = False) -> str:
    """What a terminal of this size shows, without the padding at the ends of lines."""
    file = io.StringIO()
    console = Console(
        file=file, width=width, height=height, force_terminal=terminal, color_system="standard" if terminal else None
    )
    console.print(renderable)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())
