"""The one place where docker-py's exceptions become ours."""

from typing import Final

import urllib3.exceptions
from docker.errors import APIError, DockerException, ImageNotFound
from requests.exceptions import RequestException

from supervisor.conversation.errors import ConversationdError, EngineUnavailable, ImageUnavailable, SandboxFailed

ENGINE_ERRORS: Final = (DockerException, RequestException, urllib3.exceptions.HTTPError, OSError)
"""Everything that docker-py raises: its time-outs and broken connections are no `DockerException`."""

_ENGINE_TROUBLE: Final = (
    "context canceled",
    "context deadline exceeded",
    "shutting down",
    "connection refused",
    "connection error",
    "transport is closing",
    "ttrpc: closed",
    "client version",
)
_REFUSAL: Final = (
    "oci runtime",
    "executable file not found",
    "no such file or directory",
    "permission denied",
    "exec format error",
    "driver failed programming external connectivity",
    "port is already allocated",
    "address already in use",
    "no space left on device",
    "is not running",
    "not paused",
)
_UNKNOWN_RUNTIME: Final = ("unknown runtime", "unknown or invalid runtime")
_NOT_FOUND: Final = ("executable file not found", "no such file or directory")
_NOT_EXECUTABLE: Final = ("permission denied", "exec format error", "is a directory", "not a directory")
_COMMAND_NOT_FOUND: Final = 127
_COMMAND_NOT_EXECUTABLE: Final = 126
_SERVER_ERROR: Final = 500


def words_of(error: Exception) -> str:
    """What the engine says, without HTTP around it."""
    if isinstance(error, APIError) and error.explanation:
        return str(error.explanation).strip()
    return str(error).strip() or type(error).__name__


def speaks_another_version(error: Exception) -> bool:
    """Whether the engine was replaced by one that no longer knows the API version that we agreed on."""
    return isinstance(error, APIError) and "client version" in words_of(error).lower()


def translate(error: Exception) -> ConversationdError:
    """Say in our terms what docker-py raised; one of `ENGINE_ERRORS`."""
    words = words_of(error)
    if isinstance(error, ImageNotFound):
        return ImageUnavailable(f"the image is not on the host: {words}")
    if isinstance(error, APIError) and any(unknown in words.lower() for unknown in _UNKNOWN_RUNTIME):
        advice = "install it on the engine's host and name it in `runtimes` of the engine's daemon.json"
        return SandboxFailed(f"the engine does not know the OCI runtime of the spec: {words}: {advice}")
    if isinstance(error, APIError) and is_refusal(error):
        return SandboxFailed(f"the engine refuses it: {words}", exit_code=_exit_code(words.lower()))
    return EngineUnavailable(f"the Docker Engine does not answer as it should: {words}")


def is_refusal(error: APIError) -> bool:
    """Whether the engine judged what it was asked for, rather than being in trouble itself."""
    words = words_of(error).lower()
    if error.status_code is None or any(trouble in words for trouble in _ENGINE_TROUBLE):
        return False
    return error.status_code < _SERVER_ERROR or any(refusal in words for refusal in _REFUSAL)


def _exit_code(words: str) -> int | None:
    """The code that a shell gives for the same, as the engine does."""
    if "oci runtime" not in words:
        return None
    if any(reason in words for reason in _NOT_FOUND):
        return _COMMAND_NOT_FOUND
    if any(reason in words for reason in _NOT_EXECUTABLE):
        return _COMMAND_NOT_EXECUTABLE
    return None
