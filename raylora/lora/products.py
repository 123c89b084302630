"""Layers with updates: a frozen product or convolution, and low-rank products on spans of its rows, as one operation.

Each computes x W^T + bias + scale · (x A^T) B^T. The gradients of A and B are added to where their `Pair` says by the
backward pass itself: autograd would keep a node, a cast and an addition for every A and every B.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raylora.lora.frozen_weight import matrix
from raylora.lora.stack import Pair


@dataclasses.dataclass(frozen=True)
class Product:
    """One low-rank product of a layer: on some rows of its input, for one trial or several.

    The A of several trials are stacked, and so are their B; `mixed` then gives a row the update of its own trial alone.

    Attributes:
        start, stop: positions of the flattened input; of a convolution, rows of the batch.
        pair: A and B in the input's dtype, and their gradients.
        scale: factor of the product for one trial, applied in an addition, where it costs nothing; 1 for several.
        mixed: None for one trial. For several (rows, 1, ranks), of rows of as many positions each: every trial's
            scale, and zero where a row belongs to another.
        mask: inverted-dropout mask of the input, or None.
    """

    start: int
    stop: int
    pair: Pair
    scale: float
    mixed: Tensor | None
    mask: Tensor | None

    def masked(self, rows: Tensor) -> Tensor:
        """The input without what is dropped."""
        return rows if self.mask is None else rows * self.mask

    def hidden(self, x: Tensor) -> Tensor:
        """x A^T of (positions, in)."""
        return self.own(x @ self.pair.a.t())

    def own(self, hidden: Tensor) -> Tensor:
        """Of (positions, ranks) what belongs to the positions' own trials, in place."""
        if self.mixed is not None:
            hidden.view(len(self.mixed), -1, hidden.shape[-1]).mul_(self.mixed)
        return hidden

    def add_update(self, out: Tensor, hidden: Tensor) -> None:
        """Add what is made of `hidden` to (positions, out)."""
        out.addmm_(hidden, self.pair.b, alpha=self.scale)

    def grad_hidden(self, grad: Tensor) -> Tensor:
        """The gradient of `hidden`, of that of the output, (positions, out)."""
        return self.own(grad @ self.pair.b.t())

    def placed(self, grad: Tensor) -> Tensor:
        """The same with the ranks of all trials at each position: (positions, ranks)."""
        return self.grad_hidden(grad)

    def add_grad_a(self, grad_hidden: Tensor, x: Tensor) -> None:
        """Add to the gradient of A."""
        _add_product(self.pair.grad_a, grad_hidden.t(), x, self.scale)

    def add_grad_b(self, hidden: Tensor, grad: Tensor) -> None:
        """Add to the gradient of B."""
        _add_product(self.pair.grad_b, hidden.t(), grad, self.scale)

    def add_grad_x(self, grad_x: Tensor, grad_hidden: Tensor) -> None:
        """Add to the gradient of the input, (positions, in)."""
        if self.mask is None:
            grad_x.addmm_(grad_hidden, self.pair.a, alpha=self.scale)
        else:
            grad_x.addcmul_(grad_hidden @ self.pair.a, self.mask, value=self.scale)


@dataclasses.dataclass(frozen=True)
class Batched(Product):
    """The product of several trials of one rank and scale with as many positions each, as a batch of products.

    Nothing of another trial is multiplied at all. What is (positions, ranks) of a `Product` is (trials, own positions,
    rank) here.

    Attributes:
        trials: how many.
    """

    trials: int = 1

    def _each(self, x: Tensor) -> Tensor:
        return x.view(self.trials, len(x) // self.trials, *x.shape[1:])

    def hidden(self, x: Tensor) -> Tensor:
        """As a product's."""
        return torch.bmm(self._each(x), self._each(self.pair.a).transpose(1, 2))

    def own(self, hidden: Tensor) -> Tensor:
        """Of (positions, ranks of all) each trial's own: a view."""
        positions, ranks = hidden.shape
        shape = self.trials, positions // self.trials, ranks // self.trials
        return hidden.as_strided(shape, (shape[1] * ranks + shape[2], ranks, 1), hidden.storage_offset())

    def add_update(self, out: Tensor, hidden: Tensor) -> None:
        """As a product's."""
        self._each(out).baddbmm_(hidden, self._each(self.pair.b), alpha=self.scale)

    def grad_hidden(self, grad: Tensor) -> Tensor:
        """As a product's."""
        return torch.bmm(self._each(grad), self._each(self.pair.b).transpose(1, 2))

    def placed(self, grad: Tensor) -> Tensor:
        """As a product's, with zeros at the ranks of others."""
        found = grad.new_zeros(len(grad), len(self.pair.b))
        torch.bmm(self._each(grad), self._each(self.pair.b).transpose(1, 2), out=self.own(found))
        return found

    def add_grad_a(self, grad_hidden: Tensor, x: Tensor) -> None:
        """As a product's."""
        _add_products(self._each(self.pair.grad_a), grad_hidden.transpose(1, 2), self._each(x), self.scale)

    def add_grad_b(self, hidden: Tensor, grad: Tensor) -> None:
        """As a product's."""
        _add_products(self._each(self.pair.grad_b), hidden.transpose(1, 2), self._each(grad), self.scale)

    def add_grad_x(self, grad_x: Tensor, grad_hidden: Tensor) -> None:
        """As a product's."""
        a = self._each(self.pair.a)
        if self.mask is None:
            self._each(grad_x).baddbmm_(grad_hidden, a, alpha=self.scale)
        else:
            grad_x.addcmul_(torch.bmm(grad_hidden, a).flatten(0, 1), self.mask, value=self.scale)


def linear(x: Tensor, anchor: Tensor, weight: Tensor, bias: Tensor | None, products: list[Product]) -> Tensor:
    """x W^T + bias with updates, (..., out).

    Args:
        x: (..., in).
        anchor: an input that needs a gradient, so that autograd runs the backward pass where x needs none.
        weight: (out, in), frozen, maybe in 4 bits.
        bias: (out,) or None.
        products: in ascending order, over positions of x.
    """
    output: Tensor = _Linear.apply(x, anchor, weight, bias, products)  # type: ignore[no-untyped-call]
    return output


def convolution(x: Tensor, anchor: Tensor, module: nn.Conv2d, products: list[Product]) -> Tensor:
    """The same for a convolution: A has the module's own kernel, stride and padding, B is a product at each position.

    Pictures lie with their channels innermost, where B's product is one over a view and the base's convolution needs
    no reordering on a CPU.
    """
    output: Tensor = _Convolution.apply(x, anchor, module, products)  # type: ignore[no-untyped-call]
    return output


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor, weight: Tensor, bias: Tensor | None, products: list[Product]
    ) -> Tensor:
        output = F.linear(x, matrix(weight, x.dtype), bias)
        flat, out = _flat(x), output.view(-1, output.shape[-1])
        hiddens = []
        for product in products:
            hidden = product.hidden(product.masked(flat[product.start : product.stop]))
            product.add_update(out[product.start : product.stop], hidden)
            hiddens.append(hidden)
        ctx.save_for_backward(flat, *hiddens)
        ctx.weight, ctx.products, ctx.shape = weight, products, x.shape
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        flat, *hiddens = ctx.saved_tensors
        grad = _flat(gradients[0])
        grad_x = grad @ matrix(ctx.weight, grad.dtype) if ctx.needs_input_grad[0] else None
        for product, hidden in zip(ctx.products, hiddens, strict=True):
            own = grad[product.start : product.stop]
            grad_hidden = product.grad_hidden(own)
            product.add_grad_a(grad_hidden, product.masked(flat[product.start : product.stop]))
            product.add_grad_b(hidden, own)
            if grad_x is not None:
                product.add_grad_x(grad_x[product.start : product.stop], grad_hidden)
        return None if grad_x is None else grad_x.view(ctx.shape), None, None, None, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, module: nn.Conv2d, products: list[Product]) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)

        def convolve(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            found = F.conv2d(rows, weight, bias, module.stride, module.padding, module.dilation)
            return found.contiguous(memory_format=torch.channels_last)

        output = convolve(x, module.weight, module.bias)
        out = _positions(output)
        each = len(out) // len(x)
        hiddens = []
        for product in products:
            rows = product.masked(x[product.start : product.stop])
            hidden = product.own(_positions(convolve(rows, _kernels(product.pair.a, module), None)))
            product.add_update(out[product.start * each : product.stop * each], hidden)
            hiddens.append(hidden)
        ctx.save_for_backward(x, *hiddens)
        ctx.module, ctx.products = module, products
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, *hiddens = ctx.saved_tensors
        module, grad = ctx.module, gradients[0].contiguous(memory_format=torch.channels_last)
        wanted = ctx.needs_input_grad[0]
        grad_x = None
        if wanted:
            grad_x, _ = _conv_backward(module, grad, x, module.weight, (True, False))
            grad_x = grad_x.contiguous(memory_format=torch.channels_last)
        flat = _positions(grad)
        count, _, height, width = grad.shape
        each = len(flat) // count
        for product, hidden in zip(ctx.products, hiddens, strict=True):
            own = flat[product.start * each : product.stop * each]
            placed = product.placed(own).view(product.stop - product.start, height, width, -1).permute(0, 3, 1, 2)
            rows = product.masked(x[product.start : product.stop])
            kernels = _kernels(product.pair.a, module)
            grad_rows, grad_a = _conv_backward(module, placed, rows, kernels, (wanted, True))
            _kernels(product.pair.grad_a, module).add_(grad_a, alpha=product.scale)
            product.add_grad_b(hidden, own)
            if grad_x is not None:
                grad_x[product.start : product.stop].add_(product.masked(grad_rows), alpha=product.scale)
        return grad_x, None, None, None


def _add_product(into: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Add a product to gradients, which are as precise as the weights of adapters: maybe more than what layers are."""
    if into.dtype == left.dtype:
        into.addmm_(left, right, alpha=scale)
    else:
        into.add_(left @ right, alpha=scale)


def _add_products(into: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """The same for a batch of products."""
    if into.dtype == left.dtype:
        into.baddbmm_(left, right, alpha=scale)
    else:
        into.add_(torch.bmm(left, right), alpha=scale)


def _kernels(a: Tensor, module: nn.Conv2d) -> Tensor:
    """(ranks, in * height * width) as (ranks, in, height, width): a view."""
    return a.view(len(a), *module.weight.shape[1:])


def _flat(x: Tensor) -> Tensor:
    """(rows, ..., features) as (rows * ..., features)."""
    return x.reshape(-1, x.shape[-1])


def _positions(x: Tensor) -> Tensor:
    """(rows, channels, height, width) with channels innermost as (rows * height * width, channels): a view."""
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])


def _conv_backward(
    module: nn.Conv2d, grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Gradients of a convolution without bias with respect to its input and its weight, if wanted."""
    where = module.stride, module.padding, module.dilation
    found = torch.ops.aten.convolution_backward(grad, x, weight, None, *where, False, [0, 0], 1, [*wanted, False])
    return found[0], found[1]
