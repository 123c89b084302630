"""The configurations of each use train, with the lines uncommented that they have for data of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from raylora.config.load import load_config
from raylora.training.on_the_way import Places
from raylora.training.trainer import Trainer
from raylora.tuning.plan import make_plan
from tests.families.diffusion.tiny import tiny_sd
from tests.families.flow.tiny import tiny_flux
from tests.training.fixtures import write_images
from tests.training.test_trainer import run_to_end

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("configs") / "model")


@pytest.mark.parametrize("use", ["style", "character", "product"])
def test_each_use_trains(use: str, tiny: Path, tmp_path: Path) -> None:
    text = re.sub(r"^# (?=(\w+:|  \w+: \{))", "", (CONFIGS / f"{use}.yaml").read_text(), flags=re.MULTILINE)
    data = {name: write_images(tmp_path / name, 6, seed=seed) for seed, name in enumerate(("main", "women", "label"))}
    Image.new("L", (16, 16), 128).save(data["main"] / "1_mask.png")
    text = text.replace("configs/quickstart/models/emoji-sd", str(tiny))
    text = text.replace("configs/quickstart/style", str(data["main"])).replace("./data/", f"{tmp_path}/")
    (tmp_path / "use.yaml").write_text(text)
    few = ["max_steps=1", "batch_size=2", "sample_prompts=[a --s 1 --d 1]", "variants=2", f"cache_dir={tmp_path}/cache"]
    few += [f"output_dir={tmp_path}/out", f"sample_every={'1' if use == 'character' else 'null'}"]
    config = load_config(tmp_path / "use.yaml", few)
    plan = make_plan(config, None)
    told = "\n".join(plan.dataset.notes)
    assert {
        "style": "as it is and mirrored",
        "character": "encoded in 2 forms",
        "product": "1 image has a mask in a file",
    }[use] in told
    assert ("regularisation images" in told) == (use == "character")
    assert ("with repeats" in told) == (use == "product")
    places = Places(tmp_path / "adapters", tmp_path / "samples")
    trainer = Trainer(config, Path(str(config.cache_dir)), 1000, threads=1, on_the_way=places)
    try:
        trainer.join("t", config).result(timeout=60)
        assert run_to_end(trainer, "t")[-1].status == "finished"
    finally:
        trainer.close()
    assert (tmp_path / "adapters/step-000001.safetensors").is_file()
    assert (tmp_path / "samples").is_dir() == (use == "character")


def test_flux_trains_as_it_stands_in_four_bits(tmp_path: Path) -> None:
    text = (CONFIGS / "flux.yaml").read_text()
    assert text.splitlines()[1] == "# raylora train configs/flux.yaml"
    text = text.replace("./models/FLUX.1-dev", str(tiny_flux(tmp_path / "model"))).replace("./data/", f"{tmp_path}/")
    write_images(tmp_path / "main", 6)
    (tmp_path / "use.yaml").write_text(text)
    few = ["max_steps=1", "resolution=16", "sample_prompts=[a --s 1 --d 1]", "sample_every=1"]
    few += [f"cache_dir={tmp_path}/cache", f"output_dir={tmp_path}/out"]
    config = load_config(tmp_path / "use.yaml", few)
    assert (config.quantize, config.gradient_checkpointing, config.lora_targets) == ("4bit", True, "linear")
    assert make_plan(config, None).family.name == "flow"
    trainer = Trainer(
        config,
        Path(str(config.cache_dir)),
        1000,
        threads=1,
        on_the_way=Places(tmp_path / "adapters", tmp_path / "samples"),
    )
    try:
        trainer.join("t", config).result(timeout=60)
        assert run_to_end(trainer, "t")[-1].status == "finished"
    finally:
        trainer.close()
    assert (tmp_path / "adapters/step-000001.safetensors").is_file()
    assert (tmp_path / "samples/step-000001-01.png").is_file()
