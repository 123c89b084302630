"""The reference of all keys."""

from __future__ import annotations

from raylora.config.reference import reference
from raylora.config.schema import SweepConfig, TrainConfig


def test_reference_tells_of_every_key() -> None:
    text = reference()
    for name in TrainConfig.model_fields:
        assert f"| `{name}` |" in text
    for name in SweepConfig.model_fields:
        assert f"| `sweep.{name}` |" in text
    assert "| `lora_rank` | a whole number from 1 to 1024 | `8` |" in text
    assert "| `learning_rate` | a number above 0, or null | `null` |" in text
    for section in (TrainConfig, SweepConfig):
        assert all(len(field.description or "") > 20 for field in section.model_fields.values())
