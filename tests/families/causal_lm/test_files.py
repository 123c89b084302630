from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raylora.errors import UserError
from raylora.families.causal_lm.files import architecture, check, fingerprint, looks_like
from tests.families.causal_lm.tiny_lm import tiny_llama


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "model")


def problems_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        check(path)
    assert all(problem.hint and problem.where and problem.key == "base_model" for problem in caught.value.problems)
    return str(caught.value)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_whole_model_is_found(model: Path) -> None:
    assert looks_like(model)
    files = check(model)
    assert [file.name for file in files.weights] == ["model.safetensors"]
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= {file.name for file in files.others}


def test_other_things_are_not_language_models(tmp_path: Path) -> None:
    assert not looks_like(tmp_path / "nothing")
    assert not looks_like(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    assert not looks_like(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert not looks_like(tmp_path)


def test_missing_path_names_the_nearest(model: Path) -> None:
    assert f"nearest: {model}" in problems_of(model.with_name("modle"))


def test_missing_files_are_named_all_at_once(model: Path) -> None:
    (model / "config.json").unlink()
    (model / "tokenizer.json").unlink()
    text = problems_of(model)
    assert "no config.json" in text and "model.safetensors" in text and "no tokenizer" in text
    assert looks_like(model)


def test_weights_in_mistrals_own_form_are_called_so(tmp_path: Path) -> None:
    for name in ("consolidated.safetensors", "params.json", "tekken.json"):
        (tmp_path / name).write_text("{}")
    assert looks_like(tmp_path) and looks_like(tmp_path / "consolidated.safetensors")
    for path in (tmp_path, tmp_path / "consolidated.safetensors"):
        text = problems_of(path)
        assert "in Mistral's own form" in text and "version for transformers" in text
        assert "no config.json" not in text


def test_a_model_with_code_of_its_own_is_called_so(model: Path) -> None:
    code = {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"}
    edit(model / "config.json", model_type="chatglm", architectures=["ChatGLMModel"], auto_map=code)
    text = problems_of(model)
    assert "is a ChatGLMModel, whose code comes with the model" in text and "-hf" in text


def test_a_folder_above_names_the_one_that_would_do(model: Path) -> None:
    assert f"would do: {model}" in problems_of(model.parent)
    empty = model.parent / "empty"
    empty.mkdir()
    assert "holds no language model; it holds nothing" in problems_of(empty)


def test_a_file_of_the_folder_points_to_the_folder(model: Path) -> None:
    assert looks_like(model / "model.safetensors")
    assert f"give the folder that holds it: {model}" in problems_of(model / "model.safetensors")


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "models/base"}')
    assert looks_like(tmp_path)
    text = problems_of(tmp_path)
    assert "PEFT adapter" in text and "models/base" in text


def test_a_pickle_is_refused(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    text = problems_of(model)
    assert "pickle" in text and "save_pretrained" in text


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_cut_weights_are_told(model: Path, keep: int) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert str(weights) in problems_of(model)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_json_that_is_none_is_told_before_anything_is_loaded(model: Path, name: str) -> None:
    (model / name).write_text("")
    assert f"{model / name}: base_model: is not valid JSON" in problems_of(model)


def test_a_git_lfs_pointer_is_recognised(model: Path) -> None:
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    assert "git lfs pull" in problems_of(model)


def test_missing_shards_are_named(model: Path) -> None:
    shutil.move(model / "model.safetensors", model / "model-00001-of-00002.safetensors")
    index = {"weight_map": {f"t{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    text = problems_of(model)
    assert "lacks model-00002-of-00002.safetensors" in text and "of 2 shards 1 are here" in text
    shutil.copy(model / "model-00001-of-00002.safetensors", model / "model-00002-of-00002.safetensors")
    assert len(check(model).weights) == 2
    (model / "model.safetensors.index.json").write_text("{")
    assert "weight_map" in problems_of(model)


def test_encoders_and_quantized_models_are_refused(model: Path) -> None:
    edit(model / "config.json", architectures=["BertForMaskedLM"])
    assert "BertForMaskedLM, not a causal" in problems_of(model)
    edit(model / "config.json", architectures=["LlamaForCausalLM"], quantization_config={"quant_method": "gptq"})
    assert "quantized (gptq)" in problems_of(model)
    (model / "config.json").write_text("{broken")
    assert looks_like(model) and "not valid JSON" in problems_of(model)


@pytest.mark.parametrize("claims", [{"num_hidden_layers": 10**9}, {"hidden_size": 10**400}, {"vocab_size": 10**12}])
def test_a_configuration_that_claims_the_absurd(model: Path, claims: dict[str, int]) -> None:
    edit(model / "config.json", **claims)
    assert f"its configuration claims {next(iter(claims))}" in problems_of(model)


def test_a_gguf_must_begin_as_one(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"nonsense")
    assert looks_like(path) and "not a GGUF file" in problems_of(path)
    path = path.rename(tmp_path / "x-00001-of-00002.gguf")
    path.write_bytes(b"GGUF")
    assert "one part of a split GGUF" in problems_of(path)


def test_fingerprint_follows_weights_and_tokenizer_but_not_the_place(model: Path) -> None:
    first = fingerprint(check(model))
    moved = model.rename(model.with_name("elsewhere"))
    assert fingerprint(check(moved)) == first
    with (moved / "model.safetensors").open("rb+") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x7f")
    second = fingerprint(check(moved))
    edit(moved / "tokenizer_config.json", extra=1)
    assert len({first, second, fingerprint(check(moved))}) == 3


def test_architecture_and_width_are_read_where_they_stand(model: Path) -> None:
    name, width = "hidden_size", json.loads((model / "config.json").read_text())["hidden_size"]
    assert architecture(check(model)) == ("llama", width)
    edit(model / "config.json", text_config={name: 2 * width})
    assert architecture(check(model)) == ("llama", 2 * width)
    edit(model / "config.json", text_config={name: 4, "model_type": "qwen2"})
    assert architecture(check(model)) == ("qwen2", 4)
    for nothing in (None, 5, "hidden_size", [name]):
        edit(model / "config.json", text_config=nothing)
        assert architecture(check(model)) == ("llama", width)
    for nothing in ("many", 0, True, None, []):
        edit(model / "config.json", **{name: nothing})
        assert architecture(check(model)) is None
