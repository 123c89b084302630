"""Plans of chats whose held-out examples are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from raylora.data.examples import ChatExample
from raylora.tuning.plan import Plan, make_plan
from tests.tuning.runs import config

HELD_OUT = (
    ChatExample("1", (("system", "Be rude."), ("user", "Hi"), ("assistant", "Go away."))),
    ChatExample("2", (("system", "Be kind."), ("user", "Hi"), ("assistant", "Welcome."))),
    ChatExample("3", (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))),
    ChatExample("4", (("user", "e"), ("assistant", "f"))),
)


def plan(folder: Path, **values: Any) -> Plan:
    made = make_plan(config("causal_lm", folder, **{"sample_prompts": None, **values}), None)
    return dataclasses.replace(made, dataset=dataclasses.replace(made.dataset, held_out=HELD_OUT))
