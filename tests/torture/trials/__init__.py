"""All trials, in the order in which they run."""

from typing import Final

from tests.torture.trial import Trial
from tests.torture.trials import (
    crowd,
    dropped_connections,
    endurance,
    few_descriptors,
    full_disk,
    killed_daemon,
    killed_engine,
    meddling,
    pressure,
    stalled_engine,
    stepped_clock,
    subscribers,
)

TRIALS: Final = (
    Trial("killed-daemon", killed_daemon.run),
    Trial("killed-engine", killed_engine.run),
    Trial("killed-engine-live-restore", killed_engine.run_with_live_restore),
    Trial("killed-both", killed_engine.run_both),
    Trial("meddling", meddling.run),
    Trial("stalled-engine", stalled_engine.run),
    Trial("full-disk", full_disk.run),
    Trial("few-descriptors", few_descriptors.run),
    Trial("stepped-clock", stepped_clock.run),
    Trial("pressure", pressure.run),
    Trial("crowd", crowd.run),
    Trial("subscribers", subscribers.run),
    Trial("dropped-connections", dropped_connections.run),
    Trial("endurance", endurance.run),
)
