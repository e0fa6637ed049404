"""The agent drivers: `open_v1_driver()` for the OpenHands agent server, `NoAgent` for a container without an agent."""

from supervisor.agent.none import NoAgent
from supervisor.agent.port import AgentDriver, AgentSession
from supervisor.agent.v1 import V1Driver, open_v1_driver

__all__ = ["AgentDriver", "AgentSession", "NoAgent", "V1Driver", "open_v1_driver"]
