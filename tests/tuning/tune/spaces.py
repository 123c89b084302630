"""Search spaces for tests of what is drawn from them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from raylora.config.schema import SweepConfig
from raylora.config.space import LISTS

domains = st.one_of(
    st.tuples(st.floats(1e-6, 1e-2), st.floats(1.01, 1e4)).map(lambda p: {"loguniform": [p[0], p[0] * p[1]]}),
    st.tuples(st.floats(1e-6, 1.0), st.floats(1e-3, 10.0)).map(lambda p: {"uniform": [p[0], p[0] + p[1]]}),
    st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=5, unique=True).map(lambda values: {"choice": values}),
)
whole_domains = st.one_of(
    st.tuples(st.integers(1, 60), st.integers(1, 60)).map(lambda p: {"int": [p[0], p[0] + p[1]]}),
    st.tuples(st.integers(1, 60), st.integers(1, 500)).map(lambda p: {"logint": [p[0], p[0] + p[1]]}),
    st.lists(st.integers(1, 64), min_size=1, max_size=5, unique=True).map(lambda values: {"choice": values}),
)
spaces = st.fixed_dictionaries(
    {}, optional={"learning_rate": domains, "lora_rank": whole_domains, "batch_size": whole_domains}
)


def inside(sweep: SweepConfig, point: dict[str, Any]) -> bool:
    for key, value in point.items():
        domain = sweep.space[key]
        values: Any = domain.values
        if domain.kind in LISTS:
            if value not in values:
                return False
        elif not values[0] <= value <= values[1] or (domain.kind in ("int", "logint") and value != int(value)):
            return False
    return point.keys() == sweep.space.keys()
