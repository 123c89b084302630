"""A run of several workers is the run of one device: processes over gloo, with shares as unequal as cards may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.families.loading import dataset
from tests.training import fixtures
from tests.training.parallel.processes import Run, all_runs, trained

pytestmark = pytest.mark.system  # starts processes of its own
#: Ranks take so long a row at first; what they take in truth shows after some steps, and shares move.
ROW_SECONDS = (1.0, 3.0, 1.1)
WORLDS = (1, 2, 3)
RUNS = {
    "causal_lm": Run(
        fixtures.config("causal_lm").with_values({"batch_size": 5, "max_steps": 12, "lora_dropout": 0.1}),
        10,
        ROW_SECONDS,
    ),
    "diffusion": Run(
        fixtures.config("diffusion").with_values({"batch_size": 3, "max_steps": 12, "caption_dropout": 0.3}),
        3,
        ROW_SECONDS,
    ),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process saw."""
    return all_runs(tmp_path_factory.mktemp("processes"), RUNS, WORLDS)


@pytest.mark.parametrize("name", RUNS)
def test_the_losses_and_the_adapter_are_those_of_one_device(
    name: str, found: list[dict[str, Any]], tmp_path: Path
) -> None:
    alone = trained(RUNS[name], tmp_path)
    assert alone["losses"][0] != alone["losses"][-1]
    for world in WORLDS:
        workers = [found[rank][f"{name}-{world}"] for rank in range(world)]
        for worker in workers:
            np.testing.assert_allclose(worker["losses"], alone["losses"], rtol=1e-8)
            np.testing.assert_allclose(worker["values"], alone["values"], rtol=1e-8)
            np.testing.assert_allclose(worker["base"], alone["base"], rtol=1e-8)
            for key, tensor in alone["adapter"].items():
                assert torch.equal(worker["adapter"][key], workers[0]["adapter"][key])
                torch.testing.assert_close(worker["adapter"][key], tensor, rtol=1e-8, atol=1e-12)
        assert [sum(rows) for rows in zip(*(worker["rows"] for worker in workers), strict=True)] == (
            [RUNS[name].config.batch_size] * RUNS[name].steps
        )


def test_shares_are_unequal_and_the_same_decision_everywhere(found: list[dict[str, Any]]) -> None:
    rows = [found[rank]["causal_lm-2"]["rows"] for rank in range(2)]
    assert (rows[0][0], rows[1][0]) == (4, 1)
    assert found[1]["diffusion-2"]["rows"][0] == 0  # fewer rows than would be worth its while: it goes without


@pytest.mark.parametrize("name", RUNS)
def test_each_example_is_encoded_once(name: str, found: list[dict[str, Any]]) -> None:
    read = dataset(RUNS[name].config)
    distinct = len({example.id for example in (*read.train, *read.held_out)})
    for world in WORLDS:
        encoded = [found[rank][f"{name}-{world}"]["encoded"] for rank in range(world)]
        assert sum(encoded) == distinct
        assert max(encoded) - min(encoded) <= 1


def test_a_worker_whose_adapter_differs_is_found_out_before_anything_is_saved(found: list[dict[str, Any]]) -> None:
    assert "told" not in found[0]["causal_lm-1"]
    for world in WORLDS[1:]:
        told = {found[rank][f"causal_lm-{world}"]["told"] for rank in range(world)}
        assert len(told) == 1
        assert "adapters differ" in told.pop()
