"""xT: vision models for images that do not fit in memory."""

__version__ = "0.1.0"
