"""Chat templates that take what no template needs are found before anything renders them without bounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylora.families.causal_lm.rendering.bounds import template_problem

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% generation %}{{ message['content'] }}"
    "{% endgeneration %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        "{{ raise_exception('no system role') }}",
        "{% for message in messages %}{{ message | tojson(indent=2) }}{% continue %}{% endfor %}{{ strftime_now('') }}",
        "{{ messages[9]['content'].split('</think>')[-1].lstrip() }}",
        "{{ ''.__class__ }}",
        "{% no template",
        "",
    ],
)
def test_templates_of_any_care_are_left_to_others(tmp_path: Path, template: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    assert template_problem(tmp_path) is None


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10000000000 }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'abcdefghij' * 1000 }}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% macro again() %}{{ again() }}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ 9 ** (9 ** 9) }}",
    ],
)
def test_a_template_without_end_is_refused(tmp_path: Path, template: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    problem = template_problem(tmp_path)
    assert problem is not None
    assert "chat template takes more than" in problem.message
    assert problem.where == str(tmp_path / "tokenizer_config.json")


def test_of_several_templates_the_default_is_tried(tmp_path: Path) -> None:
    several = [{"name": "tools", "template": "{{ 'a' * 10000000000 }}"}, {"name": "default", "template": CHATML}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert template_problem(tmp_path) is None
    for nothing in ([], {}, None, 5, [5], [{"name": "default"}]):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": nothing}))
        assert template_problem(tmp_path) is None
