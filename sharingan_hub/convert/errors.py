"""What converting raises."""

from __future__ import annotations


class ConversionError(ValueError):
    """A foreign checkpoint cannot be read or converted, in one sentence that says why."""
