"""Sweeps: the search space, Ray Tune around the trainers, the ranking and the report.

`raylora.sweep` is a function of the Python API and the package of that name: Python puts the package in the
function's place as soon as anything in it is imported. So the package can be called, and is the function.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raylora.api import SweepResult
    from raylora.config import TrainConfig


class _Sweep(types.ModuleType):
    def __call__(self, config: TrainConfig, *, resume: bool = False, dashboard: bool = False) -> SweepResult:
        from raylora import api

        return api.sweep(config, resume=resume, dashboard=dashboard)


sys.modules[__name__].__class__ = _Sweep
