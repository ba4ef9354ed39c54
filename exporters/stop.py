"""How a run is told to end."""

from __future__ import annotations


class Terminated(KeyboardInterrupt):
    """SIGTERM: end now. Ctrl-C while a search runs only ends the search."""
