"""Forms, masks, repeats and regularisation images: what a trial learns by them does not depend on its pack."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from raylora.config.schema import TrainConfig
from raylora.training.base_losses import prepare
from raylora.training.pack import Pack
from tests.families.loading import dataset, load
from tests.training.fixtures import config, write_images

STEPS = 4


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Two folders, one of them with masks, and a folder of regularisation images."""
    root = tmp_path_factory.mktemp("pictures")
    write_images(root / "main", 6, seed=1)
    for name in ("1", "2"):
        mask = Image.new("L", Image.open(root / "main" / f"{name}.png").size, 0)
        mask.paste(255, (0, 0, 8, 8))
        (root / "main/masks").mkdir(exist_ok=True)
        mask.save(root / "main/masks" / f"{name}.png")
    rows = [f'{n}.png,"red, green, number {n}, blue"' for n in range(6)]
    (root / "main/metadata.csv").write_text("\n".join(["filename,prompt", *rows]) + "\n")
    return config("diffusion").with_values(
        {
            "train_data_dir": str(root / "main"),
            "folders": {"more": {"path": str(write_images(root / "more", 2, seed=2)), "repeats": 2, "trigger": "sks"}},
            "reg_data_dir": str(write_images(root / "reg", 3, seed=3)),
            "cache_dir": str(root / "cache"),
            "caption_shuffle": True,
            "tag_dropout": 0.2,
            "crop_jitter": 0.2,
            "flip_augment": True,
            "masked_loss": True,
            "variants": 3,
            "batch_size": 3,
            "max_steps": STEPS,
            "lora_rank": 2,
        }
    )


def train(pack: Pack, trials: dict[str, TrainConfig]) -> dict[str, tuple[list[float], dict[str, torch.Tensor]]]:
    members = {name: pack.join(name, settings) for name, settings in trials.items()}
    losses: dict[str, list[float]] = {name: [] for name in trials}
    for _ in range(STEPS):
        before = {name: member.loss_sum for name, member in members.items()}
        pack.step()
        for name, member in members.items():
            losses[name].append(member.loss_sum - before[name])
    return {name: (losses[name], pack.leave(name).adapter.tensors()) for name in trials}


def test_packed_equals_alone(pictures: TrainConfig) -> None:
    base = load(pictures, torch.device("cpu"), torch.float64)
    data = prepare(base, dataset(pictures), Path(str(pictures.cache_dir)))
    values: dict[str, dict[str, object]] = {
        "plain": {},
        "seed": {"seed": 1},
        "weights": {"unmasked_weight": 0.7, "prior_loss_weight": 0.1},
    }
    trials = {name: pictures.with_values(own) for name, own in values.items()}
    together = train(Pack(base, data), trials)
    for name, settings in trials.items():
        losses, tensors = train(Pack(base, data), {name: settings})[name]
        assert together[name][0] == pytest.approx(losses, rel=1e-8)
        for key, tensor in tensors.items():
            torch.testing.assert_close(together[name][1][key], tensor, rtol=1e-7, atol=1e-12)
    assert len({tuple(losses) for losses, _ in together.values()}) == len(trials)  # each value has its effect


def test_the_epoch_is_as_planned_and_judged_plainly(pictures: TrainConfig) -> None:
    found = dataset(pictures)
    prior = [example for example in found.train if example.forms and example.forms.prior]  # type: ignore[union-attr]
    assert len(prior) * 2 == len(found.train)
    assert all(example.forms is None for example in found.held_out)  # type: ignore[union-attr]
    assert not found.judged_by_training
    plain = dataset(pictures.with_values({"caption_shuffle": False, "tag_dropout": 0.0, "flip_augment": False}))
    assert [example.id for example in plain.held_out] == [example.id for example in found.held_out]
    assert {example.id for example in plain.train}.isdisjoint(example.id for example in found.train)


def test_a_changed_mask_is_another_example(pictures: TrainConfig) -> None:
    before = [example.id for example in dataset(pictures).train]
    masks = sorted((Path(pictures.train_data_dir) / "masks").iterdir())
    kept = [mask.read_bytes() for mask in masks]
    for mask in masks:
        Image.new("L", Image.open(mask).size, 255).save(mask)
    after = [example.id for example in dataset(pictures).train]
    for mask, data in zip(masks, kept, strict=True):
        mask.write_bytes(data)
    assert len(before) == len(after) and 0 < len(set(before) - set(after)) <= len(masks)
