"""Adding up what the engine tells of a pull."""

import pytest

from supervisor.conversation.errors import ImageUnavailable
from supervisor.sandbox.docker.images import PullTally
from supervisor.sandbox.docker.views import EngineJson
from supervisor.sandbox.port import PullProgress


def downloading(layer: str, current: int, total: int) -> EngineJson:
    """The engine's message for bytes that came."""
    return {"id": layer, "status": "Downloading", "progressDetail": {"current": current, "total": total}}


def test_bytes_of_layers_add_up() -> None:
    """Each layer counts with its last message."""
    tally = PullTally()
    for message in (downloading("a", 10, 100), downloading("b", 5, 50), downloading("a", 60, 100)):
        assert tally.take(message)
    assert tally.progress == PullProgress(65, 150)


@pytest.mark.parametrize("status", ["Download complete", "Pull complete", "Already exists"])
def test_layer_that_has_come_counts_whole(status: str) -> None:
    """The last bytes get no message of their own; a layer without any counts nothing."""
    tally = PullTally()
    tally.take(downloading("a", 10, 100))
    tally.take({"id": "a", "status": status})
    tally.take({"id": "b", "status": status})
    assert tally.progress == PullProgress(100, 100)


def test_layer_of_unknown_size_counts_what_came() -> None:
    """Some registries tell no length."""
    tally = PullTally()
    tally.take({"id": "a", "status": "Downloading", "progressDetail": {"current": 7, "total": -1}})
    assert tally.progress == PullProgress(7, 7)


def test_repeats_and_retries_do_not_advance() -> None:
    """Only news shows that a pull is alive."""
    tally = PullTally()
    assert tally.take({"id": "a", "status": "Waiting"})
    assert not tally.take({"id": "a", "status": "Waiting"})
    assert not tally.take({"id": "a", "status": "Retrying in 5 seconds"})
    assert tally.take({"status": "Status: Downloaded newer image"})


def test_error_ends_the_pull() -> None:
    """In the registry's words."""
    with pytest.raises(ImageUnavailable, match="manifest unknown"):
        PullTally().take({"error": "manifest unknown"})
