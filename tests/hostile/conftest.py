"""One daemon without an engine and one with, for all that only talks to them, looked at after every test."""

from collections.abc import Iterator

import pytest

from tests.hostile.target import Target, assert_unharmed, running_target, running_willing_target


@pytest.fixture(scope="session")
def shared_target() -> Iterator[Target]:
    """The daemon that every test here may attack."""
    with running_target() as target:
        yield target


@pytest.fixture
def target(shared_target: Target) -> Iterator[Target]:
    """The shared daemon; after the test it has to be unharmed."""
    yield shared_target
    assert_unharmed(shared_target)


@pytest.fixture(scope="session")
def shared_willing_target() -> Iterator[Target]:
    """The daemon that everything succeeds with."""
    with running_willing_target() as target:
        yield target


@pytest.fixture
def willing_target(shared_willing_target: Target) -> Iterator[Target]:
    """The shared daemon that has an engine; after the test it has to be unharmed."""
    yield shared_willing_target
    assert_unharmed(shared_willing_target)
