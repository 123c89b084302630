"""Ray's own validation and Ray's own reader take the configuration that is made for its autoscaler."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raylora.cluster.ray import autoscaler_config
from raylora.cluster.ray.autoscaler_config import Wiring
from tests.cluster.sites import site


def wiring(folder: Path) -> Wiring:
    return Wiring("/etc/raylora/cluster.yaml", "10.0.0.5:6379", "/etc/raylora/token", str(folder / "ray.yaml"))


def test_ray_takes_it(tmp_path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.autoscaler.v2.instance_manager.config import FileConfigReader

    to = wiring(tmp_path)
    assert autoscaler_config.write(site(), to, {"rtx4090": 2})
    values = yaml.safe_load(Path(to.ray_file).read_text())
    validate_config(values)
    validate_config(prepare_config(values))
    config = FileConfigReader(to.ray_file).get_cached_autoscaling_config()
    assert config.disable_node_updaters()
    assert config.get_head_node_type() == "head"
    assert config.get_max_num_worker_nodes() == 2 + 1 + 3
    assert Wiring.of(config.get_provider_config()) == to
    types = config.get_node_type_configs()
    assert types["rtx4090"].resources["GPU"] == 2
    assert types["rtx4090"].labels == {"ray.io/accelerator-type": "GeForce-RTX-4090"}
    assert types["rtx4090"].idle_timeout_s == 90
    assert types["plain"].labels == {}
    assert "GPU" not in types["plain"].resources
    assert types["head"].resources["CPU"] == 0


@pytest.mark.parametrize(
    ("limits", "most", "least"),
    [
        ({}, {"rtx4090": 0, "rtx3090": 1, "plain": 3}, {"rtx3090": 1}),  # not counted yet: what is kept running
        ({"rtx4090": 5, "rtx3090": 0, "plain": 9}, {"rtx4090": 5, "rtx3090": 0, "plain": 3}, {"rtx3090": 0}),
    ],
)
def test_limits_follow_the_cards(limits: dict[str, int], most: dict[str, int], least: dict[str, int]) -> None:
    types = autoscaler_config.render(site(), Wiring("c", "h:1", "t", "r"), limits)["available_node_types"]
    assert {name: types[name]["max_workers"] for name in most} == most
    assert {name: types[name]["min_workers"] for name in least} == least


def test_it_is_written_only_when_something_changed(tmp_path: Path) -> None:
    to = wiring(tmp_path)
    assert autoscaler_config.write(site(), to, {"rtx4090": 2})
    before = Path(to.ray_file).stat().st_ino
    assert not autoscaler_config.write(site(), to, {"rtx4090": 2})
    assert Path(to.ray_file).stat().st_ino == before
    assert autoscaler_config.write(site(), to, {"rtx4090": 1})
    assert Path(to.ray_file).stat().st_ino != before, "replaced, never written in place"
    assert [path.name for path in tmp_path.iterdir()] == ["ray.yaml"]


def test_a_node_that_is_being_made_has_its_time_to_join_left() -> None:
    settings = autoscaler_config.autoscaler_environment(site(create_minutes=30, join_minutes=15))
    assert settings["RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"] == str(45 * 60)


def test_a_lost_node_is_noticed_within_fifteen_seconds() -> None:
    settings = autoscaler_config.autoscaler_environment(site())
    period, timeout, failures = (
        int(settings[f"RAY_health_check_{name}"]) for name in ("period_ms", "timeout_ms", "failure_threshold")
    )
    assert failures * (period + timeout) + int(settings["AUTOSCALER_UPDATE_INTERVAL_S"]) * 1000 < 15_000
