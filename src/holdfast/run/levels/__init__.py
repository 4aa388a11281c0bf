"""Levels: where versions are kept besides the run's own store, and how they come back from there.

Not imported by a serial program that keeps its versions in the run's store alone.
"""

from .levels import Levels, climb

__all__ = ["Levels", "climb"]
