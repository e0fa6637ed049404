"""docker-py's errors in our terms."""

import pytest
import requests
from docker.errors import APIError, DockerException, ImageNotFound
from requests.exceptions import ConnectionError as BrokenConnection
from requests.exceptions import ReadTimeout
from urllib3.exceptions import ProtocolError

from supervisor.conversation.errors import ConversationdError, EngineUnavailable, ImageUnavailable, SandboxFailed
from supervisor.sandbox.docker.translation import speaks_another_version, translate

OCI = "OCI runtime create failed: container_linux.go:380: starting container process caused: "


def refusal(status: int, words: str) -> APIError:
    """An error that the engine answered."""
    response = requests.Response()
    response.status_code = status
    return APIError("error", response=response, explanation=words)


@pytest.mark.parametrize(
    "error",
    [
        ReadTimeout("timed out"),
        BrokenConnection("refused"),
        ProtocolError("cut"),
        DockerException("Error while fetching server API version"),
        FileNotFoundError(2, "No such file"),
        APIError("no answer"),
        refusal(500, "context canceled"),
        refusal(503, "the daemon is shutting down"),
        refusal(500, "something else"),
        refusal(500, OCI + "context deadline exceeded"),
        refusal(400, "client version 1.41 is too old"),
    ],
)
def test_trouble_of_the_engine_is_no_verdict(error: Exception) -> None:
    """Whatever it was asked for may be fine."""
    assert type(translate(error)) is EngineUnavailable


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (refusal(400, OCI + 'exec: "x": executable file not found in $PATH'), 127),
        (refusal(400, OCI + 'exec: "/x": stat /x: no such file or directory'), 127),
        (refusal(400, OCI + 'exec: "/etc": permission denied'), 126),
        (refusal(500, OCI + "exec format error"), 126),
        (refusal(400, OCI + "something else"), None),
        (refusal(400, "Minimum memory limit allowed is 6MB"), None),
        (refusal(404, "network x not found"), None),
        (refusal(500, "driver failed programming external connectivity on endpoint"), None),
    ],
)
def test_refusals_keep_the_engines_words(error: APIError, exit_code: int | None) -> None:
    """And have a shell's exit code where it is the command's fault."""
    translated = translate(error)
    assert isinstance(translated, SandboxFailed)
    assert translated.exit_code == exit_code
    assert str(error.explanation) in translated.message


@pytest.mark.parametrize("words", ["Unknown runtime specified runsc", "unknown or invalid runtime name: runsc"])
def test_runtime_that_the_engine_does_not_know_is_a_refusal_that_says_what_to_do(words: str) -> None:
    """In the words of older and newer engines; asking again does not help."""
    translated = translate(refusal(400, words))
    assert isinstance(translated, SandboxFailed)
    assert words in translated.message
    assert "daemon.json" in translated.message


def test_missing_image_is_told_apart() -> None:
    """It can be pulled."""
    response = requests.Response()
    response.status_code = 404
    translated: ConversationdError = translate(ImageNotFound("x", response=response, explanation="No such image: x"))
    assert isinstance(translated, ImageUnavailable)


def test_error_without_words_says_what_it_is() -> None:
    """No message is empty."""
    assert "ReadTimeout" in translate(ReadTimeout()).message


def test_another_version_is_noticed() -> None:
    """An engine that was replaced refuses the version that we agreed on with the old one."""
    assert speaks_another_version(refusal(400, "client version 1.41 is too old. Minimum supported API version is 1.44"))
    assert not speaks_another_version(refusal(400, "bad parameter"))
    assert not speaks_another_version(ReadTimeout("client version"))
