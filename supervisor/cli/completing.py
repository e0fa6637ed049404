"""Ids for the shell's completion, from the running daemon: soon, or not at all."""

from typing import Final

import trio
from click.shell_completion import CompletionItem

from supervisor.cli.asks import Settings
from supervisor.cli.calls import dial
from supervisor.cli.tokens import with_token
from supervisor.control.client_views import ControlClientError, Conversation
from supervisor.conversation.lifecycle import Status

_PATIENCE: Final = 1.0
_MOST: Final = 1000


def complete_ids(settings: Settings, statuses: tuple[Status, ...], incomplete: str) -> list[CompletionItem]:
    """The ids that begin so, of conversations with one of the statuses (any, if none is given).

    Whatever goes wrong, there is nothing to complete, and nothing is said.
    """
    try:
        conversations = trio.run(_ask, with_token(settings), statuses)
    except (ControlClientError, OSError, ValueError):
        return []
    fitting = [each for each in conversations if each.id.startswith(incomplete)]
    return [CompletionItem(each.id, help=each.status.lower()) for each in fitting]


async def _ask(settings: Settings, statuses: tuple[Status, ...]) -> tuple[Conversation, ...]:
    with trio.move_on_after(_PATIENCE):
        async with dial(settings) as client:
            return (await client.list(statuses, limit=_MOST)).items
    return ()
