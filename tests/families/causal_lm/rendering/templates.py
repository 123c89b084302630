"""Small chat templates of the structures that people's models have: how roles, turns and thoughts are written."""

from __future__ import annotations

import dataclasses

from transformers import PreTrainedTokenizerFast

from raylora.families.causal_lm.tokenizer import ChatTokens
from tests.families.causal_lm.tiny_lm import tiny_tokenizer


@dataclasses.dataclass(frozen=True)
class Structure:
    """A template, and the tokens that its models have.

    Attributes:
        source: the template.
        special: special tokens; the last is the tokenizer's end of sequence.
        bos: the token that plain text begins with.
        stops: stop tokens that the model's configuration names.
        plain: tokens that are not special.
    """

    source: str
    special: tuple[str, ...]
    bos: str | None = None
    stops: tuple[str, ...] = ()
    plain: tuple[str, ...] = ("<think>", "</think>")

    def tokens(self) -> ChatTokens:
        tokenizer: PreTrainedTokenizerFast = tiny_tokenizer(self.source)
        every = [*self.special, *([self.bos] if self.bos else []), *self.stops]
        tokenizer.add_tokens([*dict.fromkeys(every)], special_tokens=True)
        tokenizer.add_tokens(list(self.plain))
        tokenizer.eos_token = self.special[-1]
        if self.bos:
            tokenizer.bos_token = self.bos
        return ChatTokens(tokenizer, "here", tokenizer.convert_tokens_to_ids(list(self.stops)))


def _each(system: str, user: str, assistant: str, prompt: str, *, before: str = "", after: str = "") -> str:
    """A template that writes message after message."""
    return (
        f"{before}{{% for m in messages %}}{{% if m.role == 'system' %}}{system}{{% elif m.role == 'user' %}}{user}"
        f"{{% else %}}{assistant}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{prompt}{{% endif %}}{after}"
    )


#: What stands before messages: the place of the last question, and a macro that takes a thought and an answer apart.
_SPLIT = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
    "{% macro thought(m) %}{% if m.reasoning_content is string %}{{ m.reasoning_content.strip('\\n') }}"
    "{% elif '</think>' in m.content %}{{ m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') }}"
    "{% endif %}{% endmacro %}"
    "{% macro said(m) %}{% if m.reasoning_content is string %}{{ m.content }}"
    "{% else %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% endif %}{% endmacro %}"
)
_NOW = "loop.index0 > ns.last"
_ASSISTANT = "<|im_start|>assistant\n"
_CHATML_SYSTEM = "<|im_start|>system\n{{ m.content }}<|im_end|>\n"
_CHATML_USER = "<|im_start|>user\n{{ m.content }}<|im_end|>\n"
_THINK_PROMPT = f"{_ASSISTANT}<think>\n"
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def _chatml(assistant: str, prompt: str = _ASSISTANT, *, before: str = "") -> Structure:
    answer = f"{_ASSISTANT}{assistant}<|im_end|>\n"
    return Structure(_each(_CHATML_SYSTEM, _CHATML_USER, answer, prompt, before=before), _CHATML)


def _llama3(before: str) -> Structure:
    turn = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    prompt = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    special = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    return Structure(_each(turn, turn, turn, prompt, before=f"<|begin|>{before}"), special, "<|begin|>")


_GEMMA = "<start_of_turn>user\n{{ m.content | trim }}<end_of_turn>\n"
_GEMMA_ANSWER = "<start_of_turn>model\n{{ m.content | trim }}<end_of_turn>\n"
_GEMMA_TOKENS = ("<start_of_turn>", "<end_of_turn>", "<eos>")
_R1 = _each(
    "",
    "<｜User｜>{{ m.content }}",
    "<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end｜>",
    "<｜Assistant｜>PREFIX",
    before="<｜begin｜>{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}",
)
_R1_TOKENS = ("<｜User｜>", "<｜Assistant｜>", "<｜end｜>")
_NEMOTRON = (
    "{% if IN_PLACE and thought(m) %}<think>\n{{ thought(m) }}\n</think>\n\n{{ said(m) | trim }}"
    "{% else %}<think></think>{{ said(m).rstrip() }}{% endif %}"
)
_PHI = "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n"
_COHERE = "<|START|><|{{ m.role }}|>{{ m.content | trim }}<|END|>"
_GPT_OSS = (
    "{% if m.thinking and loop.last %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
    "{% endif %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{% if loop.last %}<|return|>{% else %}<|end|>{% endif %}"
)
_QWEN3 = f"{{% if {_NOW} %}}<think>\n{{{{ thought(m) }}}}\n</think>\n\n{{% endif %}}{{{{ said(m) }}}}"
_QWEN3_5 = f"{{% if {_NOW} %}}<think>\n{{{{ thought(m) }}}}\n</think>\n\n{{% endif %}}{{{{ said(m) | trim }}}}"
_NO_THINKING = (
    "{% if enable_thinking is defined and enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}"
)
_THINKING = (
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}"
)
_BRIEF = _THINKING.replace("<think>\n\n</think>\n\n", "<think></think>")

STRUCTURES: dict[str, Structure] = {
    "llama3": _llama3(""),
    "llama3_2": _llama3(
        "{% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}{% endif %}<|start_header_id|>system"
        "<|end_header_id|>\n\nToday Date: {{ day }}\n\n<|eot_id|>"
    ),
    "gemma": Structure(
        _each("{{ raise_exception('System role not supported') }}", _GEMMA, _GEMMA_ANSWER, "<start_of_turn>model\n"),
        _GEMMA_TOKENS,
        stops=("<eos>", "<end_of_turn>"),
    ),
    "gemma3": Structure(
        "{% set system = messages[0].content ~ '\n\n' if messages[0].role == 'system' else '' %}"
        + _each(
            "",
            _GEMMA.replace("{{ m", "{{ (system if loop.index0 == (1 if system else 0) else '') ~ m", 1),
            _GEMMA_ANSWER,
            "<start_of_turn>model\n",
        ),
        _GEMMA_TOKENS,
        stops=("<eos>", "<end_of_turn>"),
    ),
    "gemma4": Structure(
        _each(
            "<|turn>system\n{{ m.content | trim }}<turn|>\n",
            "<|turn>user\n{{ m.content | trim }}<turn|>\n",
            "<|turn>model\n{% if m.reasoning and loop.last %}<|channel>thought\n{{ m.reasoning }}\n<channel|>"
            "{% endif %}{{ m.content | trim }}<turn|>\n",
            "<|turn>model\n",
        ),
        ("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<eos>"),
        stops=("<eos>", "<turn|>"),
    ),
    "qwen2_5": _chatml(
        "{{ m.content }}",
        before="{% if messages[0].role != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}",
    ),
    "qwen3": _chatml(_QWEN3, before=_SPLIT),
    "qwen3_2507": _chatml("{{ m.content }}"),
    "qwen3_5_think": _chatml(_QWEN3_5, f"{_ASSISTANT}{_THINKING}", before=_SPLIT),
    "qwen3_5_nothink": _chatml(_QWEN3_5, f"{_ASSISTANT}{_NO_THINKING}", before=_SPLIT),
    "qwen3_6": _chatml(
        _QWEN3_5.replace(_NOW, f"(preserve_thinking is defined and preserve_thinking) or {_NOW}"),
        f"{_ASSISTANT}{_THINKING}",
        before=_SPLIT,
    ),
    "glm4_moe": Structure(
        _each(
            "<|system|>\n{{ m.content }}",
            "<|user|>\n{{ m.content }}",
            f"<|assistant|>\n{{% if {_NOW} and thought(m) %}}<think>{{{{ thought(m) | trim }}}}</think>"
            "{% else %}<think></think>{% endif %}\n{{ said(m) | trim }}",
            "<|assistant|>{% if enable_thinking is defined and not enable_thinking %}\n<think></think>{% endif %}",
            before=f"[gMASK]<sop>{_SPLIT}",
        ),
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"),
        stops=("<|endoftext|>", "<|user|>"),
    ),
    "glm4": Structure(
        _each(
            "<|system|>\n{{ m.content }}",
            "<|user|>\n{{ m.content }}",
            "<|assistant|>\n{{ m.content }}",
            "<|assistant|>\n",
        ),
        ("<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"),
        stops=("<|endoftext|>", "<|user|>"),
    ),
    "phi3": Structure(
        _each(_PHI, _PHI, _PHI, "<|assistant|>\n", after="{% if not add_generation_prompt %}<|endoftext|>{% endif %}"),
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>"),
        stops=("<|endoftext|>", "<|assistant|>", "<|end|>"),
    ),
    "deepseek_v3": Structure(_R1.replace("PREFIX", ""), _R1_TOKENS, "<｜begin｜>"),
    "deepseek_r1": Structure(_R1.replace("PREFIX", "<think>\n"), _R1_TOKENS, "<｜begin｜>"),
    "gpt_oss": Structure(
        _each(
            "<|start|>developer<|message|>{{ m.content }}<|end|>",
            "<|start|>user<|message|>{{ m.content }}<|end|>",
            _GPT_OSS,
            "<|start|>assistant",
        ),
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
    ),
    "cohere": Structure(
        _each(_COHERE, _COHERE, _COHERE, "<|START|><|assistant|>", before="<BOS>"),
        ("<|START|>", "<|user|>", "<|assistant|>", "<|system|>", "<|END|>"),
        "<BOS>",
    ),
    "cohere2": Structure(
        _each(
            _COHERE,
            _COHERE,
            "<|START|><|assistant|><|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|><|END|>",
            "<|START|><|assistant|><|START_RESPONSE|>",
            before="<BOS>",
        ),
        ("<|START|>", "<|user|>", "<|assistant|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|END|>"),
        "<BOS>",
    ),
    "lfm2": _chatml("{{ m.content }}", before="<|endoftext|>"),
    "lfm2_5": Structure(
        _each(
            _CHATML_SYSTEM,
            _CHATML_USER,
            f"{_ASSISTANT}{{% generation %}}{{% if loop.last %}}{{{{ m.content }}}}{{% else %}}"
            "{{ m.content.split('</think>')[-1].strip() }}{% endif %}<|im_end|>\n{% endgeneration %}",
            _ASSISTANT,
        ),
        _CHATML,
    ),
    "nemotron_nano": _chatml(_NEMOTRON.replace("IN_PLACE", _NOW), f"{_ASSISTANT}{_BRIEF}", before=_SPLIT),
    "nemotron_keeps": _chatml(_NEMOTRON.replace("IN_PLACE", "true"), f"{_ASSISTANT}{_BRIEF}", before=_SPLIT),
    "smollm3": _chatml(
        "{% if enable_thinking is defined and not enable_thinking %}{{ m.content.split('</think>')[-1] }}{% else %}"
        "{{ m.content }}{% endif %}",
        before="<|im_start|>system\nReasoning Mode: "
        "{% if enable_thinking is defined and not enable_thinking %}/no_think{% else %}/think{% endif %}<|im_end|>\n",
    ),
    "mistral": Structure(
        _each("[SYS]{{ m.content }}[/SYS]", "[INST] {{ m.content }}[/INST]", " {{ m.content }}</s>", "", before="<s>"),
        ("[INST]", "[/INST]", "[SYS]", "[/SYS]", "</s>"),
        "<s>",
    ),
    "granite": Structure(
        "{% for m in messages %}<|role|>{{ m.role }}<|/role|>{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|role|>assistant{% if thinking %} thinks{% endif %}<|/role|>{% endif %}",
        ("<|role|>", "<|/role|>", "<|end|>"),
    ),
}
