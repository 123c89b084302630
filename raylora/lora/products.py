"""Layers with updates: a frozen product or convolution, and low-rank products on spans of its rows, as one operation.

Each computes x W^T + bias + scale · (x A^T) B^T; with DoRA, see `kinds/magnitude.py`, the outputs of some trials are
scaled before the bias. The gradients of A and B are added to where their `Pair` says by the backward pass itself:
autograd would keep a node, a cast and an addition for every A and every B.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raylora.lora.frozen_weight import matrix
from raylora.lora.kinds.magnitude import Magnitudes
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
        magnitudes: DoRA's, or None.
    """

    start: int
    stop: int
    pair: Pair
    scale: float
    mixed: Tensor | None
    mask: Tensor | None
    magnitudes: Magnitudes | None = None

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
        base, scales = matrix(weight, x.dtype), any(product.magnitudes for product in products)
        output = F.linear(x, base, None if scales else bias)
        flat, out = _flat(x), output.view(-1, output.shape[-1])
        hiddens, unscaled = [], []
        for product in products:
            rows = product.masked(flat[product.start : product.stop])
            hidden = product.hidden(rows)
            again = functools.partial(F.linear, rows, base)
            unscaled += _update(product, base, out[product.start : product.stop], hidden, again)
            hiddens.append(hidden)
        if scales and bias is not None:
            output.add_(bias)
        ctx.save_for_backward(flat, *hiddens, *unscaled)
        ctx.weight, ctx.products, ctx.shape = weight, products, x.shape
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        flat, *saved = ctx.saved_tensors
        grad, products = _flat(gradients[0]), ctx.products
        hiddens, unscaled = saved[: len(products)], saved[len(products) :]
        through, owns = _grads(products, grad, unscaled)
        base = matrix(ctx.weight, grad.dtype) if ctx.needs_input_grad[0] else None
        grad_x = None if base is None else through @ base
        for product, hidden, own in zip(products, hiddens, owns, strict=True):
            grad_hidden = product.grad_hidden(own)
            product.add_grad_a(grad_hidden, product.masked(flat[product.start : product.stop]))
            product.add_grad_b(hidden, own)
            if grad_x is not None and base is not None:
                rows = grad_x[product.start : product.stop]
                product.add_grad_x(rows, grad_hidden)
                if product.mask is not None and product.magnitudes is not None:
                    rows.addcmul_((own - grad[product.start : product.stop]) @ base, product.mask)
        return None if grad_x is None else grad_x.view(ctx.shape), None, None, None, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, module: nn.Conv2d, products: list[Product]) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)

        def convolve(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            found = F.conv2d(rows, weight, bias, module.stride, module.padding, module.dilation)
            return found.contiguous(memory_format=torch.channels_last)

        base, scales = module.weight, any(product.magnitudes for product in products)
        output = convolve(x, base, None if scales else module.bias)
        out = _positions(output)
        each = len(out) // len(x)
        hiddens, unscaled = [], []
        for product in products:
            rows = product.masked(x[product.start : product.stop])
            hidden = product.own(_positions(convolve(rows, _kernels(product.pair.a, module), None)))

            def again(rows: Tensor = rows) -> Tensor:
                return _positions(convolve(rows, base, None))

            unscaled += _update(product, base, out[product.start * each : product.stop * each], hidden, again)
            hiddens.append(hidden)
        if scales and module.bias is not None:
            output.add_(module.bias[:, None, None])
        ctx.save_for_backward(x, *hiddens, *unscaled)
        ctx.module, ctx.products = module, products
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, *saved = ctx.saved_tensors
        module, products = ctx.module, ctx.products
        hiddens, unscaled = saved[: len(products)], saved[len(products) :]
        grad = gradients[0].contiguous(memory_format=torch.channels_last)
        flat = _positions(grad)
        count, _, height, width = grad.shape
        each = len(flat) // count

        def pictures(positions: Tensor) -> Tensor:
            return positions.view(-1, height, width, positions.shape[-1]).permute(0, 3, 1, 2)

        through, owns = _grads(products, flat, unscaled, each)
        wanted = ctx.needs_input_grad[0]
        grad_x = None
        if wanted:
            grad_x, _ = _conv_backward(module, pictures(through), x, module.weight, (True, False))
            grad_x = grad_x.contiguous(memory_format=torch.channels_last)
        for product, hidden, own in zip(products, hiddens, owns, strict=True):
            placed = pictures(product.placed(own))
            rows = product.masked(x[product.start : product.stop])
            kernels = _kernels(product.pair.a, module)
            grad_rows, grad_a = _conv_backward(module, placed, rows, kernels, (wanted, True))
            _kernels(product.pair.grad_a, module).add_(grad_a, alpha=product.scale)
            product.add_grad_b(hidden, own)
            if grad_x is not None:
                grad_x[product.start : product.stop].add_(product.masked(grad_rows), alpha=product.scale)
                if product.mask is not None and product.magnitudes is not None:
                    past = pictures(own - flat[product.start * each : product.stop * each])
                    more, _ = _conv_backward(module, past, rows, module.weight, (True, False))
                    grad_x[product.start : product.stop].addcmul_(more, product.mask)
        return grad_x, None, None, None


def _update(product: Product, base: Tensor, out: Tensor, hidden: Tensor, again: Callable[[], Tensor]) -> list[Tensor]:
    """Add a trial's update to the base's outputs, (positions, out), and scale them where there are magnitudes.

    Args:
        product: the trial's, or that of several.
        base: the frozen weight.
        out: what it makes of the input; without bias where there are magnitudes.
        hidden: what A makes of the input without what is dropped.
        again: gives what the frozen weight makes of that.

    Returns:
        What was scaled, for the backward pass; nothing where there are no magnitudes.
    """
    magnitudes = product.magnitudes
    if magnitudes is None:
        product.add_update(out, hidden)
        return []
    magnitudes.prepare(base)
    if product.mask is None:
        product.add_update(out, hidden)
        unscaled = out.clone()
        magnitudes.scale(out)
        return [unscaled]
    unscaled = again()
    out.sub_(unscaled)
    product.add_update(unscaled, hidden)
    out.add_(magnitudes.scaled(unscaled))
    return [unscaled]


def _grads(
    products: Sequence[Product], grad: Tensor, unscaled: Sequence[Tensor], each: int = 1
) -> tuple[Tensor, list[Tensor]]:
    """Gradients behind magnitudes, to which this adds: of what goes through the frozen weight, and of each update.

    Args:
        products: of the layer.
        grad: of the outputs, (positions, out).
        unscaled: as `_update` gave it.
        each: positions of `grad` for one that products count.
    """
    through = grad.clone() if unscaled else grad
    owns, kept = [], iter(unscaled)
    for product in products:
        span = slice(product.start * each, product.stop * each)
        if product.magnitudes is None:
            owns.append(grad[span])
            continue
        product.magnitudes.add_grad(grad[span], next(kept))
        if product.mask is None:
            owns.append(product.magnitudes.scale(through[span]))
        else:
            owns.append(product.magnitudes.scaled(grad[span]))
    return through, owns


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
