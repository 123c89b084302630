"""A talk with base model and adapter: one model, two chats."""

from __future__ import annotations

import pytest
import torch

from raylora.errors import UserError
from raylora.families.causal_lm.export.peft_folder import export_peft
from raylora.families.causal_lm.files import check
from raylora.families.causal_lm.sample import generate
from raylora.families.causal_lm.talk import Talk
from tests.families.causal_lm.export.adapters import config_of, random_adapter
from tests.families.causal_lm.tiny_lm import tiny_llama


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Talk:
    root = tmp_path_factory.mktemp("talk")
    base = tiny_llama(root / "base")
    config = config_of(base, lora_rank=4)
    tensors = {name: 4 * tensor for name, tensor in random_adapter(base, config, torch.float32).items()}
    adapter = export_peft(root / "adapter", tensors, config, str(base))
    made = Talk(check(base), config, torch.float32, adapter)
    made.samples = [  # type: ignore[attr-defined]
        generate(check(base), config, torch.float32, which, ["hello"])[0] for which in (None, adapter)
    ]
    return made


def test_each_side_answers_as_the_model_alone(talk: Talk) -> None:
    """The base model's answer is without the adapter, though both are one model in memory."""
    talk.start_anew()
    base, adapted = talk.say("hello")
    wanted = talk.samples  # type: ignore[attr-defined]
    assert (base != adapted) and wanted[0] != wanted[1]
    assert base.startswith(wanted[0]) and adapted.startswith(wanted[1])  # samples are shorter


def test_each_side_remembers_its_own_answers(talk: Talk) -> None:
    talk.start_anew()
    first = talk.say("hello")
    assert [message[1] for message in talk._base] == ["hello", first[0]]
    assert [message[1] for message in talk._adapted] == ["hello", first[1]]
    talk.start_anew()
    assert talk.say("hello") == first


def test_what_the_template_refuses_is_not_remembered(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    talk.start_anew()
    monkeypatch.setattr(talk._answerer, "answer", lambda messages: (_ for _ in ()).throw(UserError.one("no")))
    with pytest.raises(UserError):
        talk.say("hello")
    assert talk._base == talk._adapted == []
