"""What a command line asks for, as values: light, so that `--help` and completion load nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import attrs

from supervisor.control.address import ControlAddress
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Status


@attrs.frozen
class Settings:
    """The global options. `token_file` and `token` are for TCP; the file wins."""

    address: ControlAddress
    token_file: Path | None = None
    token: str | None = attrs.field(default=None, repr=False)
    as_json: bool = False
    no_color: bool = False


@attrs.frozen
class Request:
    """One request, one answer. `target` is the conversation's id, None where there is none."""

    method: str
    params: JsonObject = attrs.field(factory=dict, repr=False)
    target: str | None = None

    @property
    def title(self) -> str:
        """The request as a person would name it: `pause c1`."""
        verb = self.method.rpartition(".")[2]
        return f"{verb} {self.target}" if self.target else verb


@attrs.frozen
class Boot(Request):
    """A request that may boot a sandbox, whose phases are shown."""


@attrs.frozen
class ListConversations:
    """All conversations, or one page of them if `limit` or `cursor` is given."""

    statuses: tuple[Status, ...] = ()
    labels: Mapping[str, str] = attrs.field(factory=dict)
    limit: int | None = None
    cursor: str | None = None

    title = "list"


@attrs.frozen
class ReadHistory:
    """All recorded events of a conversation after `since`, or the first `limit` of them."""

    target: str
    since: int = 0
    limit: int | None = None

    @property
    def title(self) -> str:
        """The request as a person would name it."""
        return f"history {self.target}"


@attrs.frozen
class FollowLogs:
    """The last lines of a sandbox's output and each new one."""

    target: str
    tail: int

    @property
    def title(self) -> str:
        """The request as a person would name it."""
        return f"logs {self.target}"


@attrs.frozen
class ReadEvents:
    """The recorded events after `since` (None: all that are kept), of all conversations or of some."""

    since: int | None = None
    targets: tuple[str, ...] = ()

    title = "events"


@attrs.frozen
class FollowEvents:
    """Events as they happen, after `since` (None: now), over as many connections as it takes."""

    since: int | None = None
    targets: tuple[str, ...] = ()

    title = "events"


@attrs.frozen
class Watch:
    """All conversations as they are, live; those with one of the statuses, if any is given."""

    statuses: tuple[Status, ...] = ()

    title = "watch"


Ask: TypeAlias = Request | ListConversations | ReadHistory | FollowLogs | ReadEvents | FollowEvents | Watch
