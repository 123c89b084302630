"""Keys that name files: the inputs of a run, and the folders it writes to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylora.config.fields import InputFile, InputPath, OutputFolder, Section, Text, Whole
from raylora.config.marks import Mark

_INPUT = Mark("input", shared="all trials of a sweep share the data and the base model")
_DATA = Mark("result", shared="all trials of a sweep share the data and the base model")
_OUTPUT = Mark("nothing", shared="every trial gets a folder of its own under output_dir")


Repeats = Annotated[Whole, Field(ge=1, le=1_000_000)]


class FolderKeys(Section):
    """Further data."""

    path: InputPath = Field(
        description="The folder (or a file of chats), read as `train_data_dir` is.",
        examples=["./data/poses"],
    )
    metadata_path: InputFile | None = Field(
        default=None,
        description="Captions of its images, as the key of that name outside.",
        examples=["./data/poses.csv"],
    )
    repeats: Repeats = Field(default=1, description="How often each of its examples is seen in an epoch: its weight.")
    trigger: Text = Field(default="", description="Words before each of its captions, as the key of that name outside.")


class DataKeys(Section):
    """The inputs of a run, and the folders it writes to."""

    train_data_dir: Annotated[InputPath, _INPUT] = Field(
        description="What is learned: a folder of images with captions, or a file (or folder of files) of chats. "
        "Looked for in the current folder, then beside the YAML file.",
        examples=["./data/style_train"],
    )
    validation_path: Annotated[InputPath | None, _INPUT] = Field(
        default=None,
        description="Examples to judge by, of the same kind: a folder or file. Null: files that are called validation "
        "in a folder of chats (those called test are left alone), else some of the training examples.",
        examples=["./data/style_validation"],
    )
    metadata_path: Annotated[InputFile | None, _INPUT] = Field(
        default=None,
        description="Captions of the images: a CSV or JSONL file with a row per image. Null: a metadata file "
        "in the folder, or a text file beside each image, is found without being named.",
        examples=["./data/style_train/metadata.csv"],
    )
    folders: Annotated[dict[str, FolderKeys], _INPUT] = Field(
        default_factory=dict,
        title="a section of names, each with `path`, and if need be `repeats`, `metadata_path` and `trigger`",
        description="Further data beside `train_data_dir`, each by a name of your choice, with `repeats` of its own: "
        "folders of images, with captions and a `trigger` of their own, or folders and files of chats.",
        examples=["{poses: {path: ./data/poses, repeats: 2}}"],
    )
    repeats: Annotated[Repeats, _DATA] = Field(
        default=1,
        description="How often each example of `train_data_dir` is seen in an epoch. Of use beside `folders` alone: "
        "what counts is how the repeats of folders compare. Numbers in folder names (`10_cat`) are not read.",
    )
    base_model: Annotated[InputPath, _INPUT] = Field(
        description="The model that is adapted and never changed: a diffusers or transformers folder, a single "
        "`.safetensors` of an image model, or a `.gguf`. Its family is recognised. Only local files are loaded.",
        examples=["./models/sd15"],
    )
    base_model_config: Annotated[InputPath | None, _INPUT] = Field(
        default=None,
        description="Folder with the configuration and tokenizer that belong to a single-file base model, when "
        "they are not among those that raylora carries.",
        examples=["./models/sd15-config"],
    )
    output_dir: Annotated[OutputFolder, _OUTPUT] = Field(
        default="./output/lora",
        description="Folder for the adapter, checkpoints, logs and report. Made if it does not exist.",
    )
    cache_dir: Annotated[OutputFolder | None, _OUTPUT] = Field(
        default=None,
        description="Folder for encoded examples (latents, text embeddings, token ids), shared by all runs and safe "
        "to delete. Null: raylora's own cache folder.",
        examples=["./cache"],
    )
