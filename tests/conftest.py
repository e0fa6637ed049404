"""What all tests share: the engine and the images of the session, and how Hypothesis measures time."""

import hypothesis

from tests.engine_fixtures import engine_url, tiny_image

__all__ = ["engine_url", "tiny_image"]

# How long an example takes says nothing about it on a machine that also runs containers.
hypothesis.settings.register_profile("conversationd", deadline=None)
hypothesis.settings.load_profile("conversationd")
