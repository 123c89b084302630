"""The reference of all keys, made from the schema alone."""

from __future__ import annotations

from collections.abc import Iterator

from raylora.config.fields import Section, valid_words, yaml_value
from raylora.config.keys.data import FolderKeys
from raylora.config.schema import SweepConfig, TrainConfig

_FORMS = (
    ("[4, 8, 16]", "one of these values"),
    ("{choice: [4, 8, 16]}", "the same"),
    ("{grid: [4, 8, 16]}", "the same; says that the searcher `grid` is meant"),
    ("{uniform: [0.0, 0.2]}", "a number between these"),
    ("{loguniform: [2e-5, 2e-3]}", "a number between these, each decade as likely (also `log_uniform`)"),
    ("{int: [1, 8]}", "a whole number between these (also `randint`, `integer`)"),
    ("{logint: [1, 64]}", "a whole number between these, small ones more often"),
)


def reference() -> str:
    """All keys as Markdown: what is valid, the default, the meaning. Made from the schema alone."""
    lines = [
        "# Keys of a configuration",
        "",
        *_table("", TrainConfig),
        "",
        "## folders",
        "",
        *_table("folders.NAME.", FolderKeys),
        "",
        "## sweep",
        "",
        *_table("sweep.", SweepConfig),
    ]
    lines += ["", "### Domains of sweep.space", "", "| form | tries |", "| --- | --- |"]
    lines += [f"| `{form}` | {meaning} |" for form, meaning in _FORMS]
    lines += ["", "Bounds are included. Every value that could be tried must be valid for its key.", ""]
    return "\n".join(lines)


def _table(prefix: str, section: type[Section]) -> Iterator[str]:
    yield "| key | valid | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        given = "required" if field.is_required() else f"`{yaml_value(default)}`"
        valid = "the section below" if name == "sweep" else valid_words(field)
        cells = (f"`{prefix}{name}`", valid, given, field.description or "")
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
