"""What sandboxes and workspaces are called, whatever runs them: always the same for the same daemon."""

import attrs

from supervisor.conversation.ids import ConversationId, parse_conversation_id


@attrs.frozen
class Ownership:
    """Whose a sandbox is."""

    conversation: ConversationId
    incarnation: int


def owner_name(owner: str) -> str:
    """What the names of one daemon begin with; `owner` is the id of its state directory."""
    return f"conversationd-{owner[:8]}"


def workspace_name(owner: str, conversation: ConversationId) -> str:
    """The name of a conversation's workspace."""
    return f"{owner_name(owner)}-{conversation}"


def read_workspace_name(owner: str, name: str) -> ConversationId | None:
    """Whose workspace has this name; None for a name that this daemon does not give."""
    prefix = f"{owner_name(owner)}-"
    try:
        return parse_conversation_id(name.removeprefix(prefix)) if name.startswith(prefix) else None
    except ValueError:
        return None


def sandbox_name(owner: str, conversation: ConversationId, incarnation: int) -> str:
    """The name of one incarnation's sandbox."""
    return f"{workspace_name(owner, conversation)}-{incarnation}"


def read_name(owner: str, name: str) -> Ownership | None:
    """Whose a sandbox of this name is; None for a name that this daemon does not give."""
    conversation, _, number = name.removeprefix(f"{owner_name(owner)}-").rpartition("-")
    try:
        ownership = Ownership(parse_conversation_id(conversation), int(number))
    except ValueError:
        return None
    return ownership if name == sandbox_name(owner, ownership.conversation, ownership.incarnation) else None
