"""How a language model is built, found out by running it once: its layers, its head, its attention."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raylora.errors import UserError
from raylora.families.causal_lm.files import KEY
from raylora.lora.selection import WORDS, select

#: Settings of models whose output head does more than multiply, each with the values that switch it off.
_HEAD_EXTRAS = {"final_logit_softcapping": (None, 0), "logit_scale": (None, 1), "logits_scaling": (None, 1)}


def find_targets(model: nn.Module, linears: Sequence[str], which: str | Sequence[str], where: str) -> list[str]:
    """Choose from the Linear layers named `linears` those that `which` means; attention is told by the classes above.

    Raises:
        UserError: names or a pattern that mean none of them.
    """
    if not isinstance(which, str) or which not in WORDS:
        return select(which, linears, where)
    if which != "attention":
        return list(linears)
    attention = {name for name, module in model.named_modules() if "attention" in type(module).__name__.lower()}
    return [name for name in linears if any(name.startswith(f"{above}.") for above in attention)]


def probe(model: Any, where: str) -> tuple[list[str], bool]:
    """Run three short rows and watch.

    Returns:
        The Linear layers below the decoder whose input has the row as dimension 0 and the token as dimension 1, in
        model order; and whether logits are the head's Linear of the decoder's last hidden state, and nothing more
        (of a model without weights: whether they may be).
    """
    outlined = model.device.type == "meta"
    decoder, head = decoder_of(model), model.get_output_embeddings()
    ids = (torch.arange(15, device=model.device).reshape(3, 5) * 7 + 11) % min(
        model.config.get_text_config().vocab_size, 997
    )
    ids[1, :4] = ids[0, :4]
    seen: dict[str, bool] = {}

    def watch(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[name] = seen.get(name, True) and inputs[0].dim() >= 3 and inputs[0].shape[:2] == ids.shape

    hooks = [
        module.register_forward_pre_hook(functools.partial(watch, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]
    try:
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits
            hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
            plain = type(head) is nn.Linear and (outlined or _is_product(logits, head, hidden))
    finally:
        for hook in hooks:
            hook.remove()
    if not outlined:
        _check_outputs(model, logits, where)
    config = model.config.get_text_config()
    simple = all(getattr(config, key, None) in nothing for key, nothing in _HEAD_EXTRAS.items())
    rows = {name for name, by_rows in seen.items() if by_rows}
    below = [name for name, _ in model.named_modules() if name in rows and _in_layers(model, name)]
    return below, plain and simple


def decoder_of(model: Any) -> Any:
    """The part of a model that gives hidden states; what transformers calls its decoder may have a head itself."""
    found = model.get_decoder()
    while found.get_output_embeddings() is not None and hasattr(found, "model"):
        found = found.model
    return found


def _is_product(logits: Tensor, head: nn.Linear, hidden: Tensor) -> bool:
    """Whether logits are the head's product and no more; some models keep one of the two in float32 (Mamba)."""
    return bool(torch.equal(logits, head(hidden.to(head.weight.dtype)).to(logits.dtype)))


def _check_outputs(model: Any, logits: Tensor, where: str) -> None:
    if not bool(logits.isfinite().all()):
        hint = "set precision: float32 (or bfloat16); if that does not help, its weights are broken"
        raise UserError.one(f"its output is not finite in {model.dtype}", where=where, key="precision", hint=hint)
    spread = float((logits[0, :4] - logits[1, :4]).abs().max()) / max(float(logits.abs().max()), 1e-30)
    if spread > torch.finfo(model.dtype).eps ** 0.5:
        hint = "give a model that reads from left to right, such as LLaMA, Qwen, Mistral or GLM"
        raise UserError.one("is no causal model: its output depends on later tokens", where=where, key=KEY, hint=hint)


def _in_layers(model: nn.Module, name: str) -> bool:
    """Whether a module lies in one of several equal blocks, so that no head or input projection is meant."""
    parts = name.split(".")
    return any(isinstance(model.get_submodule(".".join(parts[:end])), nn.ModuleList) for end in range(1, len(parts)))
