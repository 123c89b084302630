"""Orders of tags, mirror images, cuts, masks and regularisation images: what each does to what is learned."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from raylora.config.schema import TrainConfig
from raylora.data.examples import ImageExample, View
from raylora.families.images import buckets
from raylora.families.images.forms import in_forms, learned
from tests.families.diffusion.models import config, examples, load, seeded

CAPTION = "sks dog, red collar, sitting, grass, sunny"


def recipe(**values: Any) -> TrainConfig:
    return TrainConfig(train_data_dir="x", base_model="x", **values)


def captions(caption: str = CAPTION, trigger: str = "", **values: Any) -> tuple[str, ...]:
    example = in_forms(ImageExample("0", Path("a.png"), caption, trigger=trigger), recipe(**values))
    return example.forms.captions if example.forms else (example.caption,)


def test_tags_are_shuffled_behind_those_that_stay() -> None:
    tags = CAPTION.split(", ")
    found = captions(caption_shuffle=True, variants=8)
    assert 6 <= len(found) <= 8 and {tuple(sorted(one.split(", "))) for one in found} == {tuple(sorted(tags))}
    assert len({one.split(", ")[0] for one in found}) > 2
    kept = captions(caption_shuffle=True, keep_tokens=2)
    assert {tuple(one.split(", ")[:2]) for one in kept} == {("sks dog", "red collar")} and len(kept) > 3
    called = captions(caption_shuffle=True, keep_tokens=1, trigger="sks dog")
    assert {tuple(one.split(", ")[:2]) for one in called} == {("sks dog", "red collar")}
    assert captions() == (CAPTION,) and captions("a dog", caption_shuffle=True) == ("a dog",)
    assert found == captions(caption_shuffle=True, variants=8)  # the same on every machine, for every seed
    assert found == captions(caption_shuffle=True, variants=8, seed=1)


def test_tags_are_dropped_by_chance_and_a_trigger_never() -> None:
    many = ", ".join(f"tag {n}" for n in range(50))
    found = captions(many, tag_dropout=0.2, variants=64)
    left = [len(one.split(", ")) / 50 for one in found]
    assert len(found) == 64 and 0.77 < sum(left) / 64 < 0.83
    kept = captions(trigger="sks dog", keep_tokens=1, tag_dropout=1.0)
    assert set(kept) == {"sks dog, red collar"}
    assert set(captions("grass, a photo of sks dog", trigger="sks dog", tag_dropout=1.0)) == {"a photo of sks dog"}


def test_views_are_cuts_of_the_picture_and_its_mirror() -> None:
    example = ImageExample("0", Path("a.png"), "x")

    def views(**values: Any) -> tuple[View, ...]:
        forms = in_forms(example, recipe(**values)).forms
        return forms.views if forms else ()

    assert views() == () and [view.mirrored for view in views(flip_augment=True)] == [False, True]
    cuts = views(crop_jitter=0.25, flip_augment=True, variants=6)
    assert len(set(cuts)) == 6 and [view.mirrored for view in cuts] == [False, True] * 3
    assert all(1.0 <= view.zoom <= 1 / 0.75 and 0 <= view.x <= 1 and 0 <= view.y <= 1 for view in cuts)

    ramp = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (32, 1, 3)))
    seen = {name: buckets.fit(ramp, (32, 32), view) for name, view in (("left", View(x=0.0)), ("right", View(x=1.0)))}
    assert np.asarray(seen["left"].image)[0, 0, 0] == 0 and np.asarray(seen["right"].image)[0, -1, 0] == 252
    mirrored = buckets.fit(ramp, (32, 32), View(x=0.0, mirrored=True))
    assert np.asarray(mirrored.image)[0, 0, 0] == 252 and mirrored.crop == (0, 0)
    half = buckets.fit(ramp, (32, 32), View(zoom=2.0, x=0.0, y=0.0))
    assert np.asarray(half.image)[0, -1, 0] == pytest.approx(4 * 16, abs=4)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_step_draws_one_of_each(name: str, root: Path) -> None:
    model = load(root, name, torch.float32)
    plain = dataclasses.replace(examples(root)[1], caption="red, blue, green, black")
    settings = config(root, name, caption_shuffle=True, flip_augment=True, variants=4)
    example = in_forms(plain, settings)
    assert example.forms is not None and example.id != plain.id
    (encoded,) = model.encode([example])
    orders = len(example.forms.captions)
    assert encoded["latents"].shape[0] == 2 and encoded["prompt"].shape[0] == orders > 2
    (alone,) = model.encode([plain])
    assert torch.equal(encoded["latents"][0], alone["latents"])
    mirror = root / f"mirror-{name}.png"
    ImageOps.mirror(Image.open(plain.path)).save(mirror)
    (mirrored,) = model.encode([dataclasses.replace(plain, path=mirror)])
    torch.testing.assert_close(encoded["latents"][1], mirrored["latents"])
    for order, caption in enumerate(example.forms.captions):
        assert torch.equal(
            model.encode([dataclasses.replace(plain, caption=caption)])[0]["prompt"], encoded["prompt"][order]
        )
    rows = [model.training_row(encoded, settings, seeded(n)) for n in range(40)]
    drawn = [[row[key].sum().item() for row in rows] for key in ("latents", "prompt")]
    assert [len(set(one)) for one in drawn] == [2, orders] and len(set(zip(*drawn, strict=True))) > orders
    assert {key: value.ndim for key, value in rows[0].items()} == {
        key: value.ndim for key, value in model.training_row(alone, settings, seeded(0)).items()
    }
    assert model.shape_key(encoded) == model.shape_key(alone)
    assert torch.equal(rows[3]["noise"], model.training_row(alone, settings, seeded(3))["noise"])


def masked(root: Path, mask: Path | None) -> ImageExample:
    return dataclasses.replace(examples(root)[3], mask=mask)


def test_the_loss_counts_where_the_mask_is_white(root: Path, tmp_path: Path) -> None:
    black = Image.new("L", (16, 16), 0)
    black.paste(255, (0, 0, 8, 16))
    black.save(tmp_path / "mask.png")
    rgba = Image.open(root / "3.png").convert("RGBA")
    rgba.putalpha(black)
    rgba.save(tmp_path / "alpha.png")
    model = load(root, "sd15")
    settings = config(root, "sd15", masked_loss=True, unmasked_weight=0.0)
    (encoded,) = model.encode([in_forms(masked(root, tmp_path / "mask.png"), settings)])
    assert encoded["mask"][0, 0].tolist() == [[1.0] * 4 + [0.0] * 4] * 8
    (both,) = model.encode(
        [in_forms(masked(root, tmp_path / "mask.png"), settings.with_values({"flip_augment": True}))]
    )
    assert torch.equal(both["mask"][1], both["mask"][0].flip(-1)) and not torch.equal(both["mask"][1], both["mask"][0])
    of_alpha = dataclasses.replace(masked(root, tmp_path / "alpha.png"), path=tmp_path / "alpha.png")
    assert torch.equal(model.encode([in_forms(of_alpha, settings)])[0]["mask"], encoded["mask"])

    def loss(spoilt: slice, **values: Any) -> float:
        """With another target at some columns, which a loss that does not count them cannot see."""
        row = model.training_row(encoded, config(root, "sd15", masked_loss=True, **values), seeded(1))
        noise = row["noise"].clone()
        noise[:, :, spoilt] += 3.0
        return float(model.losses([{**row, "noise": noise}])[0].detach())

    nothing, left, right = slice(0, 0), slice(0, 4), slice(4, 8)
    assert loss(right, unmasked_weight=0.0) == loss(nothing, unmasked_weight=0.0) < loss(left, unmasked_weight=0.0)
    assert loss(nothing, unmasked_weight=0.2) < loss(right, unmasked_weight=0.2) < loss(left, unmasked_weight=0.2)
    # weighted mean: unmasked_weight 1 is the loss of the whole picture
    row = model.training_row(encoded, settings.with_values({"unmasked_weight": 1.0}), seeded(1))
    whole = {name: tensor for name, tensor in row.items() if name != "mask"}
    torch.testing.assert_close(model.losses([row]), model.losses([whole]), rtol=1e-12, atol=0)


def test_masked_plain_and_prior_examples_share_a_pass_and_none_sees_another(root: Path, tmp_path: Path) -> None:
    Image.new("L", (16, 16), 0).save(tmp_path / "black.png")
    model = load(root, "sd15")
    settings = config(root, "sd15", masked_loss=True, prior_loss_weight=0.25)
    (example,) = examples(root)[3:]
    found = model.encode(
        [
            example,
            in_forms(masked(root, tmp_path / "black.png"), settings),
            in_forms(example, settings, prior=True),
        ]
    )
    rows = [model.training_row(one, settings, seeded(9)) for one in found]
    together = model.losses(rows)
    torch.testing.assert_close(together, torch.cat([model.losses([row]) for row in rows]), rtol=1e-10, atol=0)
    plain, black, prior = together.tolist()
    assert prior == pytest.approx(0.25 * plain, rel=1e-9)
    assert black == pytest.approx(plain, rel=1e-9)  # the same weight everywhere: its mean is the whole's
    nothing = model.training_row(found[1], settings.with_values({"unmasked_weight": 0.0}), seeded(9))
    assert float(model.losses([nothing])[0].detach()) == 0.0


def test_an_epoch_has_repeats_and_as_many_regularisation_images(root: Path) -> None:
    train = [dataclasses.replace(one, repeats=count) for one, count in zip(examples(root)[:2], (3, 1), strict=True)]
    beside = [dataclasses.replace(one, id=f"reg{n}") for n, one in enumerate(examples(root)[2:])]
    epoch, notes = learned(recipe(reg_data_dir="x"), train, beside)
    assert [one.path.name for one in epoch] == ["0.png"] * 3 + ["1.png"] + ["2.png", "3.png"] * 2
    assert [bool(one.forms and one.forms.prior) for one in epoch] == [False] * 4 + [True] * 4
    assert any("4 training examples of 2 images" in note for note in notes)
    assert any("as many as training images" in note for note in notes)
    assert learned(recipe(), train[1:], []) == ([train[1]], [])


def test_what_contradicts_or_has_no_effect_is_told() -> None:
    train = [ImageExample("0", Path("a.png"), "a left hand"), ImageExample("1", Path("b.png"), "b, c")]

    def notes(**values: Any) -> str:
        return "\n".join(learned(recipe(**values), train, [])[1])

    assert "1 caption is speaking of left or right" in notes(flip_augment=True) and "a.png" in notes(flip_augment=True)
    assert "encoded in 8 forms" in notes(caption_shuffle=True) and "too few tags: a.png" in notes(caption_shuffle=True)
    assert "encoded in 5 cuts, half of them mirrored" in notes(crop_jitter=0.1, flip_augment=True, variants=5)
    for key, value in (("keep_tokens", 1), ("variants", 4), ("prior_loss_weight", 0.5), ("unmasked_weight", 0.5)):
        assert f"{key} has no effect without" in notes(**{key: value})
    assert notes() == ""
