"""The short form of every trial, over one engine for all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_host import NoEngine, PrivateEngine, networked_engine
from tests.tiny_image import tiny_image as imported_tiny_image
from tests.torture.trial import Bench, Trial
from tests.torture.trials import TRIALS


@pytest.fixture(scope="session")
def own_engine() -> Iterator[PrivateEngine]:
    """An engine of our own, even if there is another one: it is killed."""
    try:
        with networked_engine() as engine:
            yield engine
    except NoEngine as error:
        pytest.fail(f"these tests start a Docker Engine of their own: {error}", pytrace=False)


@pytest.fixture(scope="session")
def image_on_own_engine(own_engine: PrivateEngine) -> Iterator[str]:
    """The tiny image on that engine."""
    with imported_tiny_image(own_engine.base_url) as name:
        yield name


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
async def test_torture_loses_nothing(
    own_engine: PrivateEngine, image_on_own_engine: str, trial: Trial, tmp_path: Path
) -> None:
    """Each trial in its short form: all that was promised is there, and nothing besides."""
    finding = await trial.run(Bench(own_engine, image_on_own_engine, tmp_path))
    assert finding.lost == ()
