"""Session fixtures for every test that needs a real Docker Engine: import them in a conftest."""

from collections.abc import Iterator

import pytest

from tests.engine_host import NoEngine, running_engine
from tests.tiny_image import tiny_image as imported_tiny_image


@pytest.fixture(scope="session")
def engine_url() -> Iterator[str]:
    """The base URL of an engine that answers; one of our own, for this run, if there is none."""
    try:
        with running_engine() as base_url:
            yield base_url
    except NoEngine as error:
        pytest.fail(f"these tests need a Docker Engine: {error}", pytrace=False)


@pytest.fixture(scope="session")
def tiny_image(engine_url: str) -> Iterator[str]:
    """The name of a busybox image on that engine."""
    with imported_tiny_image(engine_url) as name:
        yield name
