"""Every kind of model says something of every picture, the same each time; what is no such model is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raylora.errors import UserError
from raylora.labelling.labeller import Question
from raylora.labelling.models import find
from raylora.labelling.tagger import prepared
from tests.families.causal_lm.tiny_lm import tiny_llama
from tests.hostile.planted import pickled
from tests.labelling import tiny

CPU = torch.device("cpu")
NOISE = np.random.default_rng(0).integers(0, 256, (6, 24, 40, 3), dtype=np.uint8)
PICTURES = [Image.fromarray(pixels) for pixels in NOISE]
MAKERS = [tiny.blip, tiny.blip2, tiny.encoder_decoder, tiny.florence, tiny.llava]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Path], Path]], Path]:
    """Makes each model once."""
    folder = tmp_path_factory.mktemp("models")
    return lambda maker: place if (place := folder / maker.__name__).exists() else maker(place)


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_captioners(made: Callable[[Callable[[Path], Path]], Path], maker: Callable[[Path], Path]) -> None:
    model = find(str(made(maker)))
    assert not model.tags
    labeller = model.load(Question(max_tokens=6), CPU)
    said = labeller(PICTURES)
    assert len(said) == len(PICTURES) and all(set(text.split()) <= {*tiny.WORDS, "[UNK]"} for text in said)
    assert len(set(said)) > 1, "it says the same of all pictures"
    assert max(len(text.split()) for text in said) <= 6
    assert model.load(Question(max_tokens=6), CPU)(PICTURES) == said
    assert labeller(PICTURES[2:]) == said[2:]


def test_a_prompt_begins_blips_caption_and_is_no_part_of_others(
    made: Callable[[Callable[[Path], Path]], Path],
) -> None:
    for maker, begins in ((tiny.blip, True), (tiny.blip2, False), (tiny.llava, False)):
        model = find(str(made(maker)))
        prompt = "the red mat"
        (said,) = model.load(Question(prompt, max_tokens=4), CPU)(PICTURES[:1])
        assert said.strip().startswith(prompt) == begins
        assert model.identity(Question(prompt)) != model.identity(Question())


def test_florence_knows_its_tasks(made: Callable[[Callable[[Path], Path]], Path]) -> None:
    model = find(str(made(tiny.florence)))
    model.load(Question("<CAPTION>"), CPU)
    with pytest.raises(UserError, match="'<OD>' is no task that gives a caption") as caught:
        model.load(Question("<OD>"), CPU)
    assert "<MORE_DETAILED_CAPTION>" in caught.value.problems[0].hint


def test_an_encoder_with_a_decoder_reads_no_words(made: Callable[[Callable[[Path], Path]], Path]) -> None:
    with pytest.raises(UserError, match="reads no words"):
        find(str(made(tiny.encoder_decoder))).load(Question("what is it?"), CPU)


def test_a_tagger(tmp_path: Path) -> None:
    model = find(str(tiny.tagger(tmp_path / "tagger")))
    assert model.tags
    asked = Question(threshold=0.35, character_threshold=0.9)
    assert model.load(asked, CPU)([Image.new("RGB", (30, 30), colour) for colour in ("red", "lime", "blue")]) == [
        "red",
        "green grass",
        "blue",
    ]
    # Twice as wide as high: half of the square is white, and a red one is red by 1, blue and green by a half.
    wide = Image.new("RGB", (60, 30), "red")
    assert model.load(asked, CPU)([wide]) == ["red, blue, green grass"]
    assert model.load(Question(threshold=0.6, character_threshold=1.0), CPU)([wide]) == ["red"]
    named = find(str(tmp_path / "tagger/model.onnx"))
    assert named == model and named.identity(asked) != named.identity(Question())


def test_what_a_tagger_sees() -> None:
    picture = Image.new("RGB", (4, 2), (10, 20, 30))
    seen = prepared(picture, 4)
    assert seen.shape == (4, 4, 3) and seen.dtype == np.float32
    assert seen[1, 0].tolist() == [30, 20, 10] and seen[0].tolist() == seen[3].tolist() == [[255] * 3] * 4


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b"nonsense"), "cannot be loaded by onnxruntime"),
        (lambda folder: (folder / "model.onnx").unlink(), "has selected_tags.csv but no .onnx file"),
        (lambda folder: (folder / "selected_tags.csv").write_text("a,b\n"), "has not the columns name and category"),
        (lambda folder: (folder / "selected_tags.csv").write_text("name,category\nx,0\n"), "gives 3 probabilities"),
    ],
)
def test_a_tagger_that_is_none(tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    folder = tiny.tagger(tmp_path / "tagger")
    spoil(folder)
    with pytest.raises(UserError, match=said):
        find(str(folder)).load(Question(), CPU)


def test_no_captioners(tmp_path: Path, made: Callable[[Callable[[Path], Path]], Path]) -> None:
    def refused(folder: Path, *said: str) -> None:
        with pytest.raises(UserError) as caught:
            find(str(folder)).load(Question(), CPU)
        text = str(caught.value)
        assert all(part in text for part in said) and "--model" in text, text

    refused(tmp_path / "nowhere" / "at" / "all", "does not exist", "florence-community/Florence-2-large")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "neither config.json nor selected_tags.csv", "what is there: nothing")
    (tmp_path / "file.safetensors").write_bytes(b"")
    refused(tmp_path / "file.safetensors", "is a file")
    refused(tiny_llama(tmp_path / "llm"), "is a LlamaForCausalLM, which sees no pictures")
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "config.json").write_text(json.dumps({"model_type": "moondream1", "auto_map": {}}))
    refused(strange, "transformers has no model_type 'moondream1'", "is never run")
    (strange / "config.json").write_text("{")
    refused(strange, "is not JSON")
    cut = shutil.copytree(made(tiny.blip), tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(cut, "cannot be loaded")
    weights.unlink()
    marker = tmp_path / "ran"
    (cut / "pytorch_model.bin").write_bytes(pickled(marker))
    refused(cut, "cannot be loaded")
    assert not marker.exists()


def test_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="somebody/tagger cannot be downloaded") as caught:
        find("somebody/tagger")
    assert "hf download somebody/tagger --local-dir tagger" in caught.value.problems[0].hint
    place = tmp_path / "cache/models--somebody--tagger"
    tiny.tagger(place / "snapshots/abc")
    (place / "refs").mkdir()
    (place / "refs/main").write_text("abc")
    assert find("somebody/tagger").path == place / "snapshots/abc"
    (place / "snapshots/abc/model.onnx").unlink()  # half of it is as good as none
    with pytest.raises(UserError, match="cannot be downloaded"):
        find("somebody/tagger")
