"""The one schema of a YAML file: what may be set, what it means, and everything that is wrong with it at once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from raylora.config import yaml_text
from raylora.config.fields import (
    Flag,
    Number,
    PathText,
    Positive,
    Section,
    Text,
    Whole,
    example,
    fields_of,
    invalid,
)
from raylora.config.space import ELSEWHERE, LISTS, Domain, read_space, unknown
from raylora.config.yaml_text import Document, Issue, Key, follow
from raylora.errors import UserError

Precision = Literal["auto", "float32", "bfloat16", "float64"]
_MOST = 1_000_000_000  # steps or examples: no run has more, and a slip of the keyboard should be told
_MOST_TRIALS = 10_000


class SweepConfig(Section):
    """The section `sweep:` of a YAML file: which keys are tried, with which values, how often and for how long."""

    space: dict[str, Domain] = Field(
        default_factory=dict,
        description="What is tried: a key of this file to a domain (see below). Any key that holds one value may "
        "stand here, except the paths and what all trials must share (validation_examples, resolution, max_length, "
        "precision, quantize, gradient_checkpointing, memory_limit_gib, device, validate_every, save_steps). Empty: "
        "learning rates a decade on either side of `learning_rate`, and ranks 4 to 32.",
        examples=["{lora_rank: [4, 8, 16]}"],
    )
    trials: Whole = Field(
        default=8,
        ge=1,
        le=10_000,
        description="Number of configurations that are tried. 8 to 10 well-chosen ones find what a grid of 25 finds. "
        "Not used by the searcher `grid`, which tries every combination once.",
    )
    searcher: Literal["optuna", "random", "grid"] = Field(
        default="optuna",
        description="Who chooses the next trial: `optuna` learns from the results so far (TPE), `random` draws "
        "independently, `grid` tries every combination (all domains must be lists). `optuna` begins at the "
        "highest rank, with learning rates spread over their range of which the likely best one comes first.",
    )
    scheduler: Literal["asha", "none"] = Field(
        default="asha",
        description="Who stops weak trials early: `asha` compares trials after the same number of examples and lets "
        "the best of them go on, `none` lets every trial run to its end.",
    )
    grace_examples: Annotated[Whole, Field(ge=1, le=_MOST)] | None = Field(
        default=None,
        description="Training examples that every trial sees before `asha` may stop it. Counted in examples, not in "
        "steps, so that trials of different batch size compare. Null: a quarter of the longest "
        "trial, at least one report.",
        examples=[200],
    )
    reduction_factor: Whole = Field(
        default=2,
        ge=2,
        le=100,
        description="At each comparison `asha` lets the best 1/reduction_factor of the trials go on.",
    )
    time_budget_minutes: Positive | None = Field(
        default=None,
        description="Minutes after which no more is trained; the best trial so far wins. Null: no limit.",
        examples=[60],
    )
    slots_per_device: Annotated[Whole, Field(ge=1, le=64)] | None = Field(
        default=None,
        description="Trials that train at the same moment on one device, over one base model in its memory. Null: as "
        "many as fit and still gain by it, see `raylora plan`. On a machine without a GPU 4, or 8 where no trial is "
        "chosen or stopped by what others came to; they share its cores, a few of them a base model.",
        examples=[4],
    )
    max_failures: Whole = Field(
        default=3,
        ge=0,
        le=1000,
        description="How often a trial that lost its machine is started again from its checkpoint.",
    )

    @field_validator("space", mode="before")
    @classmethod
    def _read_space(cls, raw: object) -> dict[str, Domain]:
        space, issues = read_space(raw, TrainConfig)
        if issues:
            raise ValueError("; ".join(f"{yaml_text.key_text(issue.key)}: {issue.message}" for issue in issues))
        return space

    @model_validator(mode="after")
    def _grid_can_be_counted(self) -> SweepConfig:
        if self.searcher == "grid":
            ranges = [name for name, domain in self.space.items() if domain.kind not in LISTS]
            if ranges:
                raise PydanticCustomError(
                    "grid",
                    "grid needs a list of values for every key, and {ranges} cannot be listed",
                    {
                        "ranges": ", ".join(ranges),
                        "hint": "give lists of values, or use the searcher optuna or random",
                    },
                )
            if self.trial_count > _MOST_TRIALS:
                raise PydanticCustomError(
                    "grid",
                    "grid has {count} combinations, more than {most}",
                    {"count": str(self.trial_count), "most": str(_MOST_TRIALS), "hint": "use the searcher optuna"},
                )
        return self

    @property
    def trial_count(self) -> int:
        """Trials that will run: `trials`, or with the searcher `grid` the number of combinations."""
        if self.searcher != "grid":
            return self.trials
        return math.prod(len(domain.values) for domain in self.space.values())


class TrainConfig(Section):
    """One training run. Every key that holds one value may be swept, see `SweepConfig.space`."""

    train_data_dir: PathText = Field(
        description="What is learned: a folder of images with captions, or a file (or folder of files) of chats. "
        "Looked for in the current folder, then beside the YAML file.",
        examples=["./data/style_train"],
    )
    metadata_path: PathText | None = Field(
        default=None,
        description="Captions of the images: a CSV or JSONL file with a row per image. Null: a metadata file "
        "in the folder, or a text file beside each image, is found without being named.",
        examples=["./data/style_train/metadata.csv"],
    )
    base_model: PathText = Field(
        description="The model that is adapted and never changed: a diffusers or transformers folder, a single "
        "`.safetensors` of Stable Diffusion, or a `.gguf`. Its family is recognised. Only local files are loaded.",
        examples=["./models/sd15"],
    )
    base_model_config: PathText | None = Field(
        default=None,
        description="Folder with the configuration and tokenizer that belong to a single-file base model, when "
        "they are not among those that raylora carries.",
        examples=["./models/sd15-config"],
    )
    output_dir: PathText = Field(
        default="./output/lora",
        description="Folder for the adapter, checkpoints, logs and report. Made if it does not exist.",
    )
    cache_dir: PathText | None = Field(
        default=None,
        description="Folder for encoded examples (latents, text embeddings, token ids), shared by all runs and safe "
        "to delete. Null: raylora's own cache folder.",
        examples=["./cache"],
    )
    lora_rank: Whole = Field(
        default=8,
        ge=1,
        le=1024,
        description="Rank of the update: columns of B, rows of A. More can hold more and overfits sooner; 4 to 32 suit "
        "a style or a tone.",
    )
    lora_alpha: Positive | Literal["rank"] = Field(
        default=16.0,
        description="The update is `B·A * lora_alpha / lora_rank`. A fixed number (the default) makes the best "
        "learning rate nearly independent of the rank, so that one learning rate serves a whole sweep. `rank` makes "
        "it follow the rank: the factor is then 1, and each rank needs its own learning rate.",
        examples=[16],
    )
    lora_dropout: Number = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="Share of the inputs of A that are zeroed in training. 0 because short runs seldom overfit; try "
        "0.05 to 0.1 on few examples.",
    )
    lora_targets: Literal["attention", "linear", "all"] = Field(
        default="linear",
        description="Layers that get an update: the projections of `attention`; every `linear` layer of the blocks, "
        "which reaches what full fine-tuning reaches; `all` adds the convolutions of an image model.",
    )
    use_rslora: Flag = Field(
        default=False,
        description="Divide by the square root of the rank in place of the rank (rank-stabilised LoRA); worth it from "
        "rank 64 on.",
    )
    learning_rate: Number = Field(
        default=2e-4,
        gt=0.0,
        description="Peak step size of AdamW. Usual: 1e-4 to 3e-4 for image models, 2e-4 for language models; it "
        "grows with the square root of `batch_size`. The first thing to sweep.",
        examples=[2e-4],
    )
    lr_scheduler: Literal["constant", "linear", "cosine"] = Field(
        default="cosine",
        description="Course of the learning rate after the warm-up: it stays, or falls to 0 at the last step.",
    )
    warmup_steps: Annotated[Whole, Field(ge=0, le=_MOST)] | None = Field(
        default=None,
        description="Optimizer steps in which the learning rate rises from 0 to its peak. Null: 5% of all steps.",
        examples=[20],
    )
    batch_size: Whole = Field(
        default=4,
        ge=1,
        le=65_536,
        description="Examples per optimizer step. Below 32, since larger batches make a LoRA no better.",
    )
    epochs: Whole = Field(
        default=10,
        ge=1,
        le=1_000_000,
        description="Times that every training example is seen. There are no repeats; steps = epochs * examples / "
        "batch_size, rounded up.",
    )
    max_steps: Annotated[Whole, Field(ge=1, le=_MOST)] | None = Field(
        default=None,
        description="Number of optimizer steps, in place of what `epochs` gives. Null: `epochs` decides.",
        examples=[1000],
    )
    weight_decay: Number = Field(
        default=0.01, ge=0.0, description="Decoupled weight decay of AdamW, on A and B; torch's own default."
    )
    adam_beta1: Number = Field(
        default=0.9, ge=0.0, lt=1.0, description="AdamW: decay of the running mean of the gradient."
    )
    adam_beta2: Number = Field(
        default=0.999, ge=0.0, lt=1.0, description="AdamW: decay of the running mean of the squared gradient."
    )
    adam_epsilon: Number = Field(
        default=1e-8, gt=0.0, description="AdamW: added to the root of that mean, against division by zero."
    )
    max_grad_norm: Number = Field(
        default=1.0,
        gt=0.0,
        description="Gradients of a trial are scaled down to this L2 norm when they exceed it, so that a rare example "
        "throws nothing out of line. A large number switches it off.",
    )
    seed: Whole = Field(
        default=0,
        ge=0,
        le=2**63 - 1,
        description="Decides the first weights, data order, noise and dropout: the same seed gives the same adapter.",
    )
    save_steps: Annotated[Whole, Field(ge=1, le=_MOST)] | None = Field(
        default=None,
        description="Optimizer steps between checkpoints, each with a validation. Null: at every report.",
        examples=[100],
    )
    validation_examples: Annotated[Whole, Field(ge=1, le=_MOST)] | None = Field(
        default=None,
        description="Examples held out of training, by which a trial is judged; chosen by their content, so that they "
        "are the same in every run. Null: a tenth of the data, within sane limits.",
        examples=[16],
    )
    validate_every: Annotated[Whole, Field(ge=1, le=_MOST)] | None = Field(
        default=None,
        description="Training examples between two reports, each with a validation and a checkpoint; a trial counts by "
        "its best one. Counted in examples, so that trials of different batch size compare. Null: eight in a run.",
        examples=[400],
    )
    precision: Precision = Field(
        default="auto",
        description="Number format of the frozen base model. `auto`: bfloat16 on a card, and for "
        "language models on a CPU with matrix units for it (AMX), else float32. Updates are trained in float32 or "
        "wider. float16 is left out: it ends in NaN too easily.",
    )
    device: Literal["auto", "gpu", "cpu"] = Field(
        default="auto",
        description="What trials run on: `auto` takes GPUs where the cluster has some or may start some, else CPUs. "
        "`gpu` asks for GPUs even where none is there yet and nothing tells that the cluster starts any.",
    )
    quantize: Literal["4bit"] | None = Field(
        default=None,
        description="Language models: `4bit` keeps frozen linear layers in 4 bits through bitsandbytes (QLoRA: NF4, "
        "double quantization), so that a 7B model takes 4 GiB and not 13; a step takes longer. Null: as `precision` "
        "says.",
        examples=["4bit"],
    )
    memory_limit_gib: Positive | None = Field(
        default=None,
        description="GiB of a device's memory that base model, updates and activations may take together; as many rows "
        "are computed at once as fit. On a CPU, Python and its libraries need about 1 GiB more. Null: what is free on "
        "the device, less a reserve.",
        examples=[20],
    )
    gradient_checkpointing: Flag = Field(
        default=False,
        description="Compute activations a second time in place of keeping them: much less memory, about a third "
        "slower, the same result.",
    )
    sample_prompts: list[Text] | None = Field(
        default=None,
        description="Prompts whose images or answers the report shows, of base model and best adapter. Null: taken "
        "from held-out examples; an empty list: no samples.",
        examples=["[a red heart, a fox]"],
    )
    resolution: Annotated[Whole, Field(ge=8, le=16_384)] | None = Field(
        default=None,
        description="Images: edge in pixels of a square with the area that images are scaled to (their aspect is "
        "kept). Null: what the base model was made for (512 for SD 1.5, 1024 for SDXL).",
        examples=[512],
    )
    min_snr_gamma: Positive | None = Field(
        default=5.0,
        description="Images: weight timesteps by min(SNR, gamma) / SNR in training (Hang et al. 2023), which converges "
        "faster; 5 is the paper's value. Null: no weighting. Validation is never weighted.",
    )
    noise_offset: Number = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Images: strength of a constant added to each channel's noise; 0.05 helps dark or bright styles.",
    )
    caption_dropout: Number = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Images: share of training examples whose caption is replaced by an empty one.",
    )
    max_length: Whole = Field(
        default=1024,
        ge=8,
        le=1_048_576,
        description="Chats: tokens after which a chat is cut off.",
    )
    sweep: SweepConfig | None = Field(
        default=None,
        description="The sweep: what is tried in place of single values (see below). Null: `raylora sweep` tries "
        "learning rates and ranks, `raylora train` ignores this section.",
    )

    @property
    def alpha(self) -> float:
        """The LoRA alpha as a number; the scale of the update is alpha / rank (alpha / sqrt(rank) with rsLoRA)."""
        return float(self.lora_rank) if self.lora_alpha == "rank" else float(self.lora_alpha)

    @property
    def scale(self) -> float:
        """What B·A is multiplied by."""
        return self.alpha / (self.lora_rank**0.5 if self.use_rslora else self.lora_rank)

    def total_steps(self, train_examples: int) -> int:
        """Optimizer steps of a run over `train_examples` examples: `max_steps`, or what `epochs` gives, rounded up.

        Raises:
            ValueError: there is no example.
        """
        if train_examples < 1:
            raise ValueError("there must be at least one training example")
        return self.max_steps or -(-self.epochs * train_examples // self.batch_size)

    def warmup(self, total_steps: int) -> int:
        """Optimizer steps of the warm-up: `warmup_steps`, at most all of them, or 5% of all, rounded down."""
        return total_steps // 20 if self.warmup_steps is None else min(self.warmup_steps, total_steps)

    def with_values(self, values: Mapping[str, object]) -> TrainConfig:
        """A validated copy with some values replaced, such as those that a sweep drew for a trial.

        Numbers may be numpy's. Paths are taken as they are.

        Raises:
            UserError: a key is unknown, or a value not valid for it.
        """
        merged = {**fields_of(self), **values}
        document = Document("values of a trial", merged, {}, [])
        if issues := list(_schema_issues(merged)):
            raise UserError(document.problems(issues))
        return TrainConfig.model_validate(merged)

    def digest(self) -> str:
        """12 hex digits that are equal for configurations that train the same adapter and judge it the same way.

        Where results go, the samples of the report, and the sweep around a run are left out.
        """
        ignored = {
            "output_dir",
            "cache_dir",
            "device",
            "sample_prompts",
            "gradient_checkpointing",
            "memory_limit_gib",
            "sweep",
        }
        values = self.model_dump(exclude=ignored) | {"lora_alpha": self.alpha}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _schema_issues(values: Mapping[str, Any]) -> Iterator[Issue]:
    """Everything the schema says against values; what the file system says is not looked at."""
    try:
        TrainConfig.model_validate(dict(values))
    except ValidationError as error:
        details = error.errors(include_url=False)
    else:
        return
    strangers = [_unknown_key(detail["loc"]) for detail in details if detail["type"] == "extra_forbidden"]
    yield from strangers
    meant = {issue.hint for issue in strangers}
    seen: set[Key] = set()
    for detail in details:
        loc: Key = detail["loc"]
        if detail["type"] == "extra_forbidden":
            continue
        if detail["type"] == "missing":
            if f"did you mean {loc[0]}?" not in meant:  # else it was told already
                field = TrainConfig.model_fields[str(loc[0])]
                yield Issue(loc, "this key is missing", f"add a line, for example {loc[0]}: {example(field)}")
            continue
        if detail["type"] == "grid":
            yield Issue(("sweep", "searcher"), detail["msg"], detail["ctx"]["hint"])
            continue
        if loc[:2] == ("sweep", "space"):
            yield from read_space(values["sweep"]["space"], TrainConfig)[1]
            continue
        section: type[Section] = SweepConfig if loc[0] == "sweep" and len(loc) > 1 else TrainConfig
        field = section.model_fields[str(loc[1] if section is SweepConfig else loc[0])]
        key, value = follow(values, loc)
        if key not in seen:
            seen.add(key)
            yield invalid(key, value, field)


def _unknown_key(key: Key) -> Issue:
    in_sweep = {name: f"sweep.{name}" for name in SweepConfig.model_fields}
    if len(key) == 1:
        return unknown(key, in_sweep | ELSEWHERE | {name: name for name in TrainConfig.model_fields})
    elsewhere = {name: to if to.startswith("sweep.") else f"sweep.space.{to}" for name, to in ELSEWHERE.items()}
    return unknown(key, elsewhere | {name: f"sweep.space.{name}" for name in TrainConfig.model_fields} | in_sweep)
