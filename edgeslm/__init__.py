"""edgeslm: a small language model next to the machine it listens to."""

__version__ = "0.1.0"
