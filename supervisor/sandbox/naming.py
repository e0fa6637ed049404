"""What sandboxes and workspaces are called, whatever runs them."""

from typing import Final

from supervisor.conversation.ids import ConversationId

_PREFIX: Final = "conversationd"


def owner_name(owner: str) -> str:
    """What the names of one daemon begin with; `owner` is the id of its state directory."""
    return f"{_PREFIX}-{owner[:8]}"


def workspace_name(owner: str, conversation: ConversationId) -> str:
    """The name of a conversation's workspace."""
    return f"{owner_name(owner)}-{conversation}"


def sandbox_name(owner: str, conversation: ConversationId, incarnation: int) -> str:
    """The name of one incarnation's sandbox."""
    return f"{workspace_name(owner, conversation)}-{incarnation}"
