"""raylora: LoRA sweeps on your own cards.

The same as `raylora sweep my_style.yaml`::

    import raylora

    config = raylora.load_config("my_style.yaml")
    result = raylora.sweep(config)
    print(result.best.trial.params, result.adapter_path)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "RayloraError",
    "SweepConfig",
    "SweepResult",
    "TrainConfig",
    "UserError",
    "chat",
    "export",
    "label",
    "load_config",
    "merge",
    "plan",
    "report",
    "resize",
    "sweep",
    "train",
]

if TYPE_CHECKING:
    from raylora.api import (
        SweepResult,
        chat,
        export,
        label,
        load_config,
        merge,
        plan,
        report,
        resize,
        sweep,
        train,
    )
    from raylora.config.schema import SweepConfig, TrainConfig
    from raylora.errors import RayloraError, UserError

_HOMES = {
    "RayloraError": "raylora.errors",
    "SweepConfig": "raylora.config.schema",
    "TrainConfig": "raylora.config.schema",
    "UserError": "raylora.errors",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `raylora --help` does not wait for pydantic, Ray and torch.
    if name not in __all__:
        raise AttributeError(f"module 'raylora' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES.get(name, "raylora.api")), name)
