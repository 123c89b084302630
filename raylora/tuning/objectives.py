"""The objective of each family: what its value is called, and the function of losses that gives it."""

from __future__ import annotations

from raylora.families import objectives

OBJECTIVES = {
    "diffusion": ("J", objectives.diffusion_objective),
    "causal_lm": ("loss per token", objectives.causal_lm_objective),
}
