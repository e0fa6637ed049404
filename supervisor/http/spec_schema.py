"""How a start's `spec` looks, for the OpenAPI document. What it may be is `supervisor.conversation.parse`'s to say."""

from collections.abc import Mapping
from typing import Final

from supervisor.conversation.json import JsonObject

_TEXT: Final = r"^[^\u0000]*$"
NAME: Final[JsonObject] = {"type": "string", "pattern": r"^[^\s\u0000-\u001f\u007f-\u009f]+$"}
_PATH: Final = r"/[^\u0000:/.][^\u0000:/]*(/[^\u0000:/.][^\u0000:/]*)*"
_SIZE: Final = r"^([1-9][0-9]{0,2}(\.[0-9]{1,6})?(GB|GiB)|[1-9][0-9]{1,5}(\.[0-9]{1,6})?(MB|MiB))$"
_MEMORY: Final[JsonObject] = {
    "anyOf": [{"type": "string", "pattern": _SIZE}, {"type": "integer", "minimum": 6 * 1024**2, "maximum": 1024**5}]
}
ENVIRONMENT: Final[JsonObject] = {
    "type": "object",
    "propertyNames": {"pattern": r"^[^=\u0000]+$"},
    "additionalProperties": {"type": "string", "pattern": _TEXT},
}
WORKING_DIRECTORY: Final[JsonObject] = {"type": "string", "pattern": f"^({_PATH}/?|/|)$"}
RUNTIME: Final[JsonObject] = {"type": "string", "pattern": "^([A-Za-z0-9][A-Za-z0-9._-]*)?$"}
COMMAND: Final[JsonObject] = {"type": "array", "items": {"type": "string", "pattern": _TEXT}, "maxItems": 1000}
_KEYS: Final[Mapping[str, JsonObject]] = {
    "provider": NAME,
    "image": NAME,
    "pull": {"type": "string", "enum": ["missing", "always", "never"]},
    "command": COMMAND,
    "env": ENVIRONMENT,
    "port": {"type": "integer", "minimum": 0, "maximum": 65535},
    "user": {"type": "string", "pattern": _TEXT},
    "workspace": {"type": "string", "pattern": f"^{_PATH}$"},
    "memory": _MEMORY,
    "cpus": {"type": "number", "minimum": 0.01, "maximum": 1024},
    "pids_limit": {"type": "integer", "minimum": 1, "maximum": 4_194_304},
    "network": NAME,
    "init": {"type": "boolean"},
    "entrypoint": COMMAND,
    "working_dir": WORKING_DIRECTORY,
    "runtime": RUNTIME,
    "mounts": {
        "type": "array",
        "items": {"type": "string", "pattern": f"^{_PATH}:{_PATH}(:ro|:rw)?$"},
        "maxItems": 100,
    },
}
SPEC_SCHEMA: Final = {
    "anyOf": [
        {
            "type": "object",
            "properties": {key: {"anyOf": [schema, {"type": "null"}]} for key, schema in _KEYS.items()},
            "additionalProperties": False,
        },
        {"type": "null"},
    ],
    "description": "Keys of the config's `[sandbox]`, within `[sandbox.allow]`.",
}
