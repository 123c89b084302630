"""Small networks that learn sums, as a family: all that is known of them without weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylora.config.schema import TrainConfig
from raylora.data.examples import Found
from raylora.errors import UserError
from raylora.families.family import Family, Prompt, Snippet
from raylora.families.read_once import parsed_json

if TYPE_CHECKING:
    import torch

    from raylora.families.toy.model import ToyModel


class ToyFamily(Family):
    """A folder with toy.json, and a .sums file of lines of eight numbers and their wanted sum."""

    name = "toy"
    title = "toy networks"
    model_title = "a toy network"
    data_title = "a .sums file"
    data_found = "sums"
    data_suffixes = (".sums",)
    objective_name = "squared error"
    adapter_name = "adapter.toy.safetensors"
    sample_count = 1

    @staticmethod
    def looks_like(path: Path) -> bool:
        return (path / "toy.json").is_file()

    def find_files(self) -> None:
        if not isinstance(parsed_json(self.base_model / "toy.json").get("width"), int):
            raise UserError.one("names no width", where=str(self.base_model / "toy.json"), key="base_model")

    def fingerprint(self) -> str:
        return hashlib.sha256((self.base_model / "weights.safetensors").read_bytes()).hexdigest()

    def dtype(self, config: TrainConfig, device: torch.device) -> torch.dtype:
        import torch

        return torch.float32

    def load(self, config: TrainConfig, device: torch.device, dtype: torch.dtype) -> ToyModel:
        from safetensors.torch import load_file

        from raylora.families.toy.model import ToyModel

        made = ToyModel(parsed_json(self.base_model / "toy.json")["width"], device, dtype, self.fingerprint())
        made.model.load_state_dict(load_file(self.base_model / "weights.safetensors"))
        return made

    def meta_model(self, config: TrainConfig, dtype: torch.dtype) -> ToyModel:
        import torch

        from raylora.families.toy.model import ToyModel

        return ToyModel(parsed_json(self.base_model / "toy.json")["width"], torch.device("meta"), dtype, "")

    def read(self, config: TrainConfig) -> Found:
        from raylora.families.toy.model import Sum

        lines = Path(config.train_data_dir).read_text().splitlines()
        sums = [Sum(hashlib.sha256(line.encode()).hexdigest(), tuple(map(float, line.split()))) for line in lines]
        return Found(sums)  # type: ignore[arg-type]

    @staticmethod
    def objective(losses: Any, counts: Any, base: Any) -> Any:
        return losses.sum((-2, -1)) / counts.sum((-2, -1))

    @staticmethod
    def prompts(held_out: Sequence[Any]) -> list[Prompt]:
        return [Prompt(" ".join(map(str, example.numbers[:-1])), str(example.numbers[-1])) for example in held_out]

    def generate(self, config: TrainConfig, adapter: Path | None, prompts: Sequence[Prompt]) -> list[Any]:
        return [f"{prompt.text} with {adapter.name if adapter else 'nothing'}" for prompt in prompts]

    @classmethod
    def export(cls, target: Path, tensors: Mapping[str, Any], config: TrainConfig, info: Mapping[str, str]) -> Path:
        from safetensors.torch import save_file

        save_file(dict(tensors), target, {"rank": json.dumps(config.lora_rank)})
        return target

    @classmethod
    def export_target(cls, to: Path) -> Path:
        return to

    @classmethod
    def usage(cls, name: str, base_model: str, adapter: Path, rank: int) -> list[Snippet]:
        return [Snippet("toybox", f"Put {adapter.name} into the box.")]

    @classmethod
    def explain(cls, value: float, base_value: float, held_out: str) -> str:
        return f"On {held_out} the sums are off by {value:.3f} squared."
