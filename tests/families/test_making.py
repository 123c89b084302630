"""Threads that make models at the same time leave torch as it was."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from raylora.families.causal_lm.export.peft_targets import peft_targets, skeleton_of
from raylora.families.making import one_at_a_time


def test_a_second_thread_waits_and_the_same_may_nest() -> None:
    entered, order = threading.Event(), []

    def second() -> None:
        entered.wait()
        with one_at_a_time():
            order.append("second")

    with ThreadPoolExecutor(1) as threads:
        with one_at_a_time(), one_at_a_time():
            waiting = threads.submit(second)
            entered.set()
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            order.append("first")
        waiting.result(timeout=30)
    assert order == ["first", "second"]


def test_the_precision_comes_back_where_making_fails() -> None:
    with pytest.raises(ValueError, match="no model"), one_at_a_time():
        torch.set_default_dtype(torch.float64)
        raise ValueError("no model")
    assert torch.get_default_dtype() is torch.float32


def test_pefts_targets_are_found_in_four_threads() -> None:
    """Two trials of one process begin together: PEFT's own contexts left later models without weights."""
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=16, **shape))
    trained = [name for name, _ in model.named_modules() if name.endswith(("q_proj", "up_proj"))]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: peft_targets(trained, skeleton_of(model)).modules, range(16)))
    assert set(found) == {("q_proj", "up_proj")}
    assert nn.Linear(2, 2).weight.device.type == "cpu"
