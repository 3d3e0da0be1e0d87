"""Frozen configurations: units in the descriptions, unknown keys refused, identity by content."""

import hashlib

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every stage configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change whenever a value does."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]
