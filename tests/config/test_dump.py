"""Configurations written as YAML."""

from __future__ import annotations

from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylora.config.dump import dump_config
from raylora.config.schema import TrainConfig
from tests.config.texts import config_of, load


def test_dump_is_short_and_readable() -> None:
    config = config_of(learning_rate=3e-5, sample_prompts=["2e-4", "no"], sweep={"space": {"lora_rank": [4, 8]}})
    assert dump_config(config, "best of 8 trials\nvalue -0.31\x00") == (
        "# best of 8 trials\n# value -0.31\\x00\ntrain_data_dir: /d\nbase_model: /m\nlearning_rate: 3.0e-5\n"
        "sample_prompts: ['2e-4', 'no']\nsweep:\n  space:\n    lora_rank:\n      choice: [4, 8]\n"
    )
    assert yaml.safe_load(dump_config(config))["learning_rate"] == 3e-5


_rates = st.floats(min_value=1e-30, max_value=1e6, exclude_min=True)


_texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)


# A folder whose name holds a `$` is one only if it is there; else it is a variable.
_names = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="$"), min_size=1, max_size=20)


_configs = st.fixed_dictionaries(
    {
        "train_data_dir": _names.map(lambda name: str(Path(f"/d/{name}"))),
        "base_model": st.just("/m"),
        "output_dir": _names.map(lambda name: str(Path(f"/o/{name}"))),
    },
    optional={
        "lora_rank": st.integers(1, 1024),
        "lora_alpha": st.just("rank") | _rates,
        "learning_rate": st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        "weight_decay": st.floats(min_value=0, allow_infinity=False),
        "adam_beta2": st.floats(0, 1, exclude_max=True),
        "use_rslora": st.booleans(),
        "lora_targets": st.sampled_from(["attention", "linear", "all", ["q_proj", "v_proj"], r".*\.[0-3]\..*"]),
        "seed": st.integers(0, 2**63 - 1),
        "max_steps": st.none() | st.integers(1, 10**9),
        "min_snr_gamma": st.none() | _rates,
        "sample_prompts": st.lists(_texts | st.sampled_from(["2e-4", "~", "yes", "0x1F", "a\nb\t c", "- x", "1:30"])),
        "sweep": st.fixed_dictionaries(
            {},
            optional={
                "space": st.fixed_dictionaries(
                    {},
                    optional={
                        "learning_rate": st.lists(_rates, min_size=1, max_size=4, unique=True),
                        "weight_decay": st.lists(_rates, min_size=2, max_size=2, unique=True).map(
                            lambda bounds: {"loguniform": sorted(bounds)}
                        ),
                        "seed": st.integers(0, 10**18).map(lambda low: {"int": [low, low + 1]}),
                    },
                ),
                "trials": st.integers(1, 10_000),
                "scheduler": st.sampled_from(["asha", "none"]),
                "time_budget_minutes": _rates,
            },
        ),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=_configs, comment=st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_dump_and_load_give_an_equal_configuration(values: dict[str, object], comment: str) -> None:
    config = TrainConfig.model_validate(values)
    assert load(dump_config(config, comment), check_paths=False) == config
