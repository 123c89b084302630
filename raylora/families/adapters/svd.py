"""Adapters of another rank, and sums of several: by the singular values of their updates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from raylora.data.reading import few, shown
from raylora.errors import Problem, UserError
from raylora.families.adapters.lora_file import LoraFile, Product, read


@dataclasses.dataclass(frozen=True)
class Written:
    """An adapter that was written.

    Attributes:
        path: where.
        layers: how many have an update.
        rank: the largest of its updates.
        kept: the share of the squared updates that it holds: 1 for all.
    """

    path: Path
    layers: int
    rank: int
    kept: float

    def words(self) -> str:
        """What was kept, for people."""
        lost = 1.0 - self.kept
        share = "all" if lost < 1e-6 else f"{self.kept:.1%}" if lost > 1e-3 else ">99.9%"
        return f"rank {self.rank} in {self.layers} layers; {share} of the update is kept (of its squares)"


def resize(file: Path, rank: int, target: Path) -> Written:
    """Write an adapter with at most this rank in each layer: the nearest that there is.

    Args:
        file: in kohya's or diffusers' layout, or a PEFT folder.
        rank: at most.
        target: the file or folder to write, in the same layout.

    Raises:
        UserError: it is no plain LoRA, or it cannot be written to.
    """
    source = read(file)
    return _write(source, {name: [product] for name, product in source.products.items()}, rank, target)


def merge(files: Sequence[Path], weights: Sequence[float], rank: int | None, target: Path) -> Written:
    """Write the weighted sum of adapters as one: the nearest that there is of this rank.

    Layers that only some of them have keep their update from these.

    Args:
        files: two or more, in one layout.
        weights: of each; 1 is as strong as it is by itself.
        rank: at most; None: as much as the sum takes, so that nothing is lost.
        target: the file or folder to write, in the layout and with the metadata of the first.

    Raises:
        UserError: one of them is no plain LoRA, they are of several layouts or base models, or the target cannot be
            written to.
    """
    sources = [read(file) for file in files]
    if problems := list(_differences(sources)):
        raise UserError(problems)
    terms: dict[str, list[Product]] = {}
    for source, weight in zip(sources, weights, strict=True):
        for name, product in source.products.items():
            terms.setdefault(name, []).append(product._replace(scale=product.scale * weight))
    return _write(sources[0], terms, rank, target)


def _differences(sources: Sequence[LoraFile]) -> Iterator[Problem]:
    """Why adapters cannot be added: their names or shapes are of different models."""
    first = sources[0]
    for other in sources[1:]:
        if other.ends != first.ends or other.layout != first.layout:
            hint = "export both in one layout"
            yield Problem(
                f"has names as in {other.layout}, {first.path.name} as in {first.layout}", shown(other.path), "", hint
            )
            continue
        both = [name for name in other.products if name in first.products]
        odd = [name for name in both if _sides(other.products[name]) != _sides(first.products[name])]
        if odd or not both:
            what = f"layers of another shape: {few(odd)}" if odd else f"no layer of {first.path.name}"
            yield Problem(f"has {what}", shown(other.path), "", "give adapters of one base model")


def _sides(product: Product) -> tuple[int, torch.Size]:
    return product.up.shape[0], product.down.shape[1:]


def _write(source: LoraFile, terms: Mapping[str, Sequence[Product]], rank: int | None, target: Path) -> Written:
    products, kept, all_ = {}, 0.0, 0.0
    for name, own in terms.items():
        products[name], own_kept, own_all = nearest(own, rank)
        kept, all_ = kept + own_kept, all_ + own_all
    written = source.write(target, products)
    largest = max(product.down.shape[0] for product in products.values())
    return Written(written, len(products), largest, kept / all_ if all_ else 1.0)


def nearest(terms: Sequence[Product], rank: int | None) -> tuple[Product, float, float]:
    """The product of at most this rank that is nearest to a sum of products; its squared norm, and that of the sum.

    The matrices that they are the products of are never made: of up = Q1 R1 and down^T = Q2 R2 the singular values are
    those of R1 R2^T, which has as many rows as the terms have ranks.
    """
    down = torch.cat([term.down.double().flatten(1) for term in terms])
    up = torch.cat([term.up.double().flatten(1) * term.scale for term in terms], dim=1)
    (left, above), (right, below) = torch.linalg.qr(up), torch.linalg.qr(down.t())
    u, values, v = torch.linalg.svd(above @ below.t(), full_matrices=False)
    count = max(1, min(rank or len(values), len(values), _rank_of(values)))
    roots = values[:count].sqrt()
    first = terms[0]
    made = Product(
        ((roots[:, None] * v[:count]) @ right.t()).reshape(count, *first.down.shape[1:]).to(first.down.dtype),
        (left @ u[:, :count] * roots).reshape(first.up.shape[0], count, *first.up.shape[2:]).to(first.up.dtype),
        1.0,
    )
    squares = values.square()
    return made, float(squares[:count].sum()), float(squares.sum())


def _rank_of(values: Tensor) -> int:
    """How many singular values there are beside rounding: more than these would hold nothing."""
    least = values[0] * 1e-12 if len(values) else 0.0
    return int((values > least).sum())
