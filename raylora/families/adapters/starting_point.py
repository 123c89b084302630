"""An adapter of any program as the point from which training goes on (`init_from`), whatever the base model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from raylora.config.schema import TrainConfig
from raylora.data.reading import few, shown
from raylora.errors import UserError
from raylora.families import adapter_file
from raylora.families.adapters.lora_file import LoraFile, Product, read
from raylora.lora.columns import has_kernel, lora_shapes

KEY = "init_from"


def read_start(config: TrainConfig) -> LoraFile:
    """Read the file that `init_from` names.

    Raises:
        UserError: it is none that this run can go on from, by its kind.
    """
    file = Path(str(config.init_from))
    if "DoRA" in adapter_file.inspect(file).kinds and not config.use_dora:
        raise refused(file, "has the magnitudes of DoRA", "write use_dora: true")
    return read(file, KEY, dora=True)


def start_tensors(
    config: TrainConfig, products: Mapping[str, Product], model: nn.Module, targets: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors to start from by raylora's names, scaled to be the same update under this run's alpha.

    A layer that gets an update here and has none in the file is not among them: it starts afresh.

    Args:
        config: names the file, and the rank and alpha that it is trained on with.
        products: of the file, by the names of layers in the model.
        model: its weights are not looked at.
        targets: the layers that get an update.

    Raises:
        UserError: it has another rank or layers that get no update here, or is of another base model.
    """
    file, own = Path(str(config.init_from)), dict(model.named_modules())
    if strange := [name for name in products if name not in own]:
        raise refused(file, f"has layers that the base model has not: {few(strange)}", "give one for this base model")
    if outside := [name for name in products if name not in set(targets)]:
        hint = "write lora_targets: all" if config.lora_targets != "all" else "raylora trains no such layer"
        raise refused(file, f"has {len(outside)} layers that lora_targets leaves out: {few(outside)}", hint)
    shapes = lora_shapes(model, list(products), config.lora_rank, config.rank_of_kernels)
    for key, kernels in (("lora_rank", False), ("conv_rank", True)):
        of = [name for name, (a, _) in shapes.items() if has_kernel(a) is kernels]
        _check_ranks(file, key, Counter(products[name].rank for name in of), shapes[of[0]][0][0] if of else 0)
    tensors: dict[str, Tensor] = {}
    for name, product in products.items():
        a, b = shapes[name]
        if product.down.shape[1:].numel() != math.prod(a[1:]) or product.up.shape[0] != b[0]:
            hint = "give one for this base model"
            raise refused(file, f"{name} is of another shape than the base model's", hint)
        tensors[f"{name}.lora_A.weight"] = product.down.float().reshape(a)
        tensors[f"{name}.lora_B.weight"] = product.up.float().reshape(b) * (product.scale / config.scale_of(a))
        if product.magnitude is not None:
            if product.magnitude.numel() != b[0]:
                hint = "give one whose magnitudes are those of outputs, as PEFT's are"
                raise refused(file, f"{name} has no magnitude for each output", hint)
            shape = (1, -1, 1, 1) if len(b) > 2 else (-1,)
            tensors[f"{name}.lora_magnitude_vector"] = product.magnitude.float().reshape(shape)
    return tensors


def fresh_note(tensors: Mapping[str, Tensor], targets: Sequence[str]) -> list[str]:
    """A note on the layers that do not start from the file; none where all do."""
    fresh = [name for name in targets if f"{name}.lora_A.weight" not in tensors]
    if not fresh:
        return []
    return [f"{KEY}: {len(fresh)} of {len(targets)} layers are not in it and start afresh: {few(fresh)}"]


def refused(file: Path, message: str, hint: str) -> UserError:
    """The error of a file that cannot be started from."""
    return UserError.one(message, where=shown(file), key=KEY, hint=hint)


def _check_ranks(file: Path, key: str, found: Counter[int], wanted: int) -> None:
    """See that all layers of a kind have one rank, and that it is the one that is trained."""
    if set(found) <= {wanted}:
        return
    rank = found.most_common(1)[0][0]
    hint = f"write {key}: {rank}" if len(found) == 1 else f"all layers of {key} have one rank here"
    raise refused(file, f"has rank {', '.join(map(str, sorted(found)))}, and {key} is {wanted}", hint)
