"""The dashboard and the configuration that ship ask for metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from ray._private import ray_constants
from ray.dashboard.modules.reporter import reporter_agent

from raylora.tuning.live.metrics import FIGURES
from tests.house.tree import ROOT

MONITORING = ROOT / "cluster/monitoring"


def queries(value: Any) -> list[str]:
    """Every expression of a dashboard."""
    if isinstance(value, dict):
        own = [value[key] for key in ("expr", "query") if isinstance(value.get(key), str)]
        return own + [found for one in value.values() for found in queries(one)]
    return [found for one in value for found in queries(one)] if isinstance(value, list) else []


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    named = {name for query in queries(dashboard) for name in re.findall(r"\bray_(\w+)", query)}
    ours = {name for name in named if name.startswith("raylora_")}
    assert ours == FIGURES.keys()
    known = Path(reporter_agent.__file__).read_text()
    assert [name for name in named - ours if f'"{name}"' not in known] == []  # Ray's own
    for query in queries(dashboard):
        for labels in re.findall(r"by \((\w+)\) \(ray_(\w+)", query):
            assert labels[0] in FIGURES[labels[1]].tags


def test_prometheus_reads_what_ray_writes_down() -> None:
    asked = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    [file] = asked["scrape_configs"][0]["file_sd_configs"][0]["files"]
    assert Path(file).name == ray_constants.PROMETHEUS_SERVICE_DISCOVERY_FILE
