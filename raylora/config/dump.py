"""Writes a configuration as YAML that `load_config` reads as an equal one."""

from __future__ import annotations

from typing import Any

import yaml

from raylora.config.fields import Section, number_text
from raylora.config.schema import SweepConfig, TrainConfig
from raylora.config.yaml_text import RESOLVERS
from raylora.suggest import printable


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would take for something else."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _tag, _pattern, _first in RESOLVERS:
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    text = number_text(value)
    digits, e, exponent = text.partition("e")
    if e and "." not in digits:
        digits += ".0"  # YAML 1.1 takes 2e-4 for a text
    if e and exponent[0] not in "+-":
        exponent = f"+{exponent}"
    return dumper.represent_scalar("tag:yaml.org,2002:float", digits + e + exponent)


def _represent_list(dumper: yaml.SafeDumper, value: list[object]) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


_Dumper.add_representer(float, _represent_float)
_Dumper.add_representer(list, _represent_list)


def dump_config(config: TrainConfig, comment: str = "") -> str:
    """YAML that `load_config` reads as an equal configuration (if its paths are absolute, as those it gave are).

    Only what differs from the default is written; `comment` becomes comment lines at the top.
    """
    values: dict[str, Any] = {}
    for name, field in TrainConfig.model_fields.items():
        value = getattr(config, name)
        if field.is_required() or value != field.get_default(call_default_factory=True):
            values[name] = _plain(value)
    lines = [f"# {printable(line, 1000)}".rstrip() for line in comment.splitlines()]
    text: str = yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9, default_flow_style=False
    )
    return "\n".join([*lines, text])


def _plain(value: Any) -> Any:
    """A value as YAML has it: sections as the keys of theirs that are not as by default."""
    if isinstance(value, SweepConfig):
        return _dump_sweep(value)
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return value.model_dump(exclude_defaults=True) if isinstance(value, Section) else value


def _dump_sweep(sweep: SweepConfig) -> dict[str, Any]:
    values = {
        name: getattr(sweep, name)
        for name, field in SweepConfig.model_fields.items()
        if name != "space" and getattr(sweep, name) != field.default
    }
    space = {name: {domain.kind: list(domain.values)} for name, domain in sweep.space.items()}
    return ({"space": space} if space else {}) | values
