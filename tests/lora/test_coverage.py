"""Which share of a model's weights gets an update."""

from __future__ import annotations

from torch import nn

from raylora.lora.coverage import coverage


def test_the_share_is_that_of_the_weights_in_the_blocks() -> None:
    block = nn.ModuleDict({"attention": nn.Linear(8, 8, bias=False), "experts": nn.Linear(8, 24, bias=False)})
    model = nn.ModuleDict({"embeddings": nn.Embedding(1000, 8), "layers": nn.ModuleList([block])})
    found = coverage(model, ["layers.0.attention"])
    assert (found.layers, found.share, found.without) == (1, 0.25, (("layers.experts", 0.75),))
    assert found.words() == "1 layer, 25% of the weights of the blocks; without an update: layers.experts 75%"
    assert (
        coverage(model, ["layers.0.attention", "layers.0.experts"])
        .words()
        .endswith(" 100% of the weights of the blocks")
    )
