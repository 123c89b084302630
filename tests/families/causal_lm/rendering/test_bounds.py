"""Chat templates that take what no template needs are found before anything renders them without bounds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raylora.errors import UserError
from raylora.families.causal_lm.rendering.bounds import check_template
from raylora.tuning.plan import make_plan
from tests.families.test_headers import LLAMA, gguf, setting, text
from tests.tuning.runs import config

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
    check_template(tmp_path)


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
    with pytest.raises(UserError) as caught:
        check_template(tmp_path)
    [problem] = caught.value.problems
    assert "chat template takes more than" in problem.message
    assert problem.where == str(tmp_path / "tokenizer_config.json")


def test_of_several_templates_the_default_is_tried(tmp_path: Path) -> None:
    several = [{"name": "tools", "template": "{{ 'a' * 10000000000 }}"}, {"name": "default", "template": CHATML}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    check_template(tmp_path)
    for nothing in ([], {}, None, 5, [5], [{"name": "default"}]):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": nothing}))
        check_template(tmp_path)


def test_a_plan_refuses_a_template_before_it_renders_chats(tmp_path: Path) -> None:
    settings = config("causal_lm", tmp_path / "run")
    model = Path(shutil.copytree(settings.base_model, tmp_path / "model"))
    (model / "chat_template.jinja").write_text("{{ 'a' * 10000000000 }}")
    with pytest.raises(UserError):
        check_template(model)  # or this would take ten gigabytes
    with pytest.raises(UserError, match="its chat template takes more than"):
        make_plan(settings.with_values({"base_model": str(model)}), None)


def test_the_template_of_a_gguf_file_is_tried_too(tmp_path: Path) -> None:
    path = gguf(tmp_path / "x.gguf", LLAMA, setting("tokenizer.chat_template", 8, text("{{ 'a' * 10000000000 }}")))
    with pytest.raises(UserError, match=r"x\.gguf"):
        check_template(path)
    check_template(gguf(tmp_path / "x.gguf", LLAMA, setting("tokenizer.chat_template", 8, text(CHATML))))
