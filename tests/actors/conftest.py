"""What actors log is not looked at here: saying nothing makes thousands of simulated conversations fast."""

from collections.abc import Iterator
from typing import NoReturn

import pytest
import structlog
from structlog.typing import EventDict, WrappedLogger


def _drop(logger: WrappedLogger, method: str, event: EventDict) -> NoReturn:
    raise structlog.DropEvent


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(processors=[_drop], cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)
