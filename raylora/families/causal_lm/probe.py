"""How a language model is built, found out by running it once: its layers, its head, its attention."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raylora.errors import UserError
from raylora.families.causal_lm.files import KEY
from raylora.families.causal_lm.kernels.packed_attention import ATTENTION, Layout

log = logging.getLogger(__name__)

#: Settings of models whose output head does more than multiply, each with the values that switch it off.
_HEAD_EXTRAS = {"final_logit_softcapping": (None, 0), "logit_scale": (None, 1), "logits_scaling": (None, 1)}


def find_targets(model: nn.Module, linears: Sequence[str], which: Literal["attention", "linear", "all"]) -> list[str]:
    """Those of the Linear layers named `linears` that `which` means; attention is told by the classes above a layer."""
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
    decoder, head = model.get_decoder(), model.get_output_embeddings()
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
            plain = type(head) is nn.Linear and (outlined or bool(torch.equal(logits, head(hidden))))
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


def _check_outputs(model: Any, logits: Tensor, where: str) -> None:
    if not bool(logits.isfinite().all()):
        hint = "set precision: float32 (or bfloat16); if that does not help, its weights are broken"
        raise UserError.one(f"its output is not finite in {model.dtype}", where=where, key="precision", hint=hint)
    spread = float((logits[0, :4] - logits[1, :4]).abs().max()) / max(float(logits.abs().max()), 1e-30)
    if spread > torch.finfo(model.dtype).eps ** 0.5:
        hint = "give a model that reads from left to right, such as LLaMA, Qwen, Mistral or GLM"
        raise UserError.one("is no causal model: its output depends on later tokens", where=where, key=KEY, hint=hint)


def takes_a_sequence(model: Any) -> bool:
    """Whether texts may lie one behind the other in one sequence; then the model's attention is left as it takes that.

    Tried with two texts that attention must keep apart, against the same two in a padded batch.
    """
    decoder, before = model.get_decoder(), model.config._attn_implementation
    ids = (torch.arange(24, device=model.device) * 5 + 3) % min(model.config.get_text_config().vocab_size, 991)
    lengths = (17, 7)
    padded = torch.nn.utils.rnn.pad_sequence(ids.split(lengths), batch_first=True)
    with torch.inference_mode():
        apart = decoder(input_ids=padded, use_cache=False).last_hidden_state
        model.set_attn_implementation(ATTENTION)
        try:
            layout = Layout.of(lengths, model.device)
            inputs = {"position_ids": layout.positions(), "layout": layout}
            found = decoder(input_ids=ids[None], use_cache=False, **inputs).last_hidden_state[0]
        except (TypeError, ValueError, RuntimeError) as error:  # a model of another build, which need not take all this
            log.info("%s takes no texts in one sequence: %s", type(model).__name__, error)
            found = None
    if found is not None:
        texts = zip(found.split(lengths), apart, strict=True)
        if model.device.type == "meta" or all(_alike(text, row[: len(text)]) for text, row in texts):
            return True
    model.set_attn_implementation(before)
    return False


def _alike(found: Tensor, wanted: Tensor) -> bool:
    apart, size = float((found - wanted).abs().max()), float(wanted.abs().max())
    return bool(apart <= torch.finfo(wanted.dtype).eps ** 0.5 * size)


def _in_layers(model: nn.Module, name: str) -> bool:
    """Whether a module lies in one of several equal blocks, so that no head or input projection is meant."""
    parts = name.split(".")
    return any(isinstance(model.get_submodule(".".join(parts[:end])), nn.ModuleList) for end in range(1, len(parts)))
