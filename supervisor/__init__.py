"""conversationd: one actor per AI-agent conversation, each with a sandbox container of its own."""

from typing import Final

__version__: Final = "0.1.0"
