"""The file of `[agent] request_file`: what every start over the V1 routes hands to its agent, unless it says otherwise.

Clients of those routes rely on the server to know the LLM and its key: OpenHands' own has them from its settings page.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from supervisor.control.wire import parse_json
from supervisor.conversation.json import JsonObject, JsonValue
from supervisor.secret_file import UnsafeSecret, read_secret

_NAME: Final = "agent request"


def load_agent_request(path: Path | None) -> JsonObject:
    """Read the file; without one there is nothing to hand over. No error tells what is in it.

    Raises:
        UnsafeSecret: it does not exist, is not a regular file of ours, is open to others, or holds no JSON object.
    """
    if path is None:
        return {}
    content = read_secret(path, _NAME)
    try:
        request = parse_json(content.decode())
    except ValueError:
        request = None
    if not isinstance(request, Mapping):
        raise UnsafeSecret(
            f'the {_NAME} file {path} holds no JSON object like {{"agent_settings": {{"llm": {{...}}}}}}'
        )
    return request


def lay_over(base: JsonValue, top: JsonValue) -> JsonValue:
    """Lay one value over another: objects key by key, anything else whole."""
    if isinstance(base, Mapping) and isinstance(top, Mapping):
        return {**base, **{key: lay_over(base.get(key), value) for key, value in top.items()}}
    return top
