"""Checkpoint folders, adapters and tickets: what they may hold, read strictly."""
