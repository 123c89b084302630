"""A kind of base model, as far as it is known without weights: the one thing that all above ask for what differs."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from raylora import suggest
from raylora.data.reading import shown
from raylora.errors import Problem, UserError

if TYPE_CHECKING:
    import torch

    from raylora.config.fields import Section
    from raylora.config.schema import TrainConfig
    from raylora.data.examples import Example, Found
    from raylora.families.base import BaseModel, Losses

#: The messages of a chat before its answer: (role, content) each.
Messages = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A question to base model and adapter for the report, with a person's answer to it, if one is known.

    Attributes:
        text: as the report shows it, and as it is asked where there are no `messages`.
        reference: a picture's file, or an answer.
        messages: all of a chat up to its answer: a system message, earlier turns, what the user says.
    """

    text: str
    reference: Path | str | None = None
    messages: Messages = ()


@dataclasses.dataclass(frozen=True)
class Snippet:
    """How to use an adapter in one program: the program, a sentence, and what is typed there."""

    title: str
    text: str
    code: str = ""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout of exported adapters beside a family's own.

    Attributes:
        name: of the file or folder inside a run's folder.
        export: writes an adapter's tensors to a place and gives what was written; it raises `UserError` where that
            cannot be written to.
        needs_base_model: whether the base model is read, which must then be the one that was trained on.
    """

    name: str
    export: Callable[[Path, Mapping[str, Any], TrainConfig], Path]
    needs_base_model: bool = False

    def target(self, to: Path) -> Path:
        """The place for an export that a person named: the folder, or a file in it, or the file.

        Raises:
            UserError: a file of another kind is named.
        """
        path, suffix = suggest.current_folder() / to, Path(self.name).suffix
        if suffix and path.is_dir():
            return path.resolve() / self.name
        if suffix and path.suffix.lower() != suffix:
            raise UserError.one(f"is no name of a {suffix} file", where=str(to), key="--to", hint=f"{to}{suffix}")
        return path.absolute()


class Talk(Protocol):
    """A talk with base model and adapter, in which a person says the same to both."""

    def start_anew(self) -> None:
        """Forget what was said."""

    def say(self, text: str) -> tuple[str, str]:
        """Say something; gives the answers of the base model and of the adapter.

        Raises:
            UserError: it cannot be said.
        """


def foreign_keys(config: TrainConfig, keys: type[Section], owner: str, instead: Mapping[str, str]) -> Iterator[Problem]:
    """Keys of another kind of base model that are set or swept: they would have no effect, and nobody would know.

    Args:
        config: of a run.
        keys: those of the other kind.
        owner: that kind, in words.
        instead: what serves here in the place of some, by key.
    """
    swept = config.sweep.space if config.sweep else {}
    for key, field in keys.model_fields.items():
        if key in swept or getattr(config, key) != field.get_default(call_default_factory=True):
            where = f"sweep.space.{key}" if key in swept else key
            hint = f"remove the key; {instead[key]}" if key in instead else "remove the key"
            yield Problem(f"is for {owner}, and has no effect here", "", where, hint)


class Family(abc.ABC):
    """One base model's kind and files. Class attributes and methods need no base model: a finished run has only a name.

    `raylora.families.resolve` makes it, once a run and process; each family is a folder and a line in `registry.py`.

    Attributes:
        name: as files of runs hold it.
        title: as the report shows it.
        model_title: the base model in a sentence ("an image model").
        data_title: what it learns from ("a folder of images with captions").
        data_found: what such data is called where it is not wanted ("images").
        data_suffixes: the suffixes of files of such data.
        objective_name: what a trial's value is called, short: it stands before an equals sign.
        adapter_name: the exported adapter inside a run's folder: a file, or a folder.
        sample_count: prompts of the report that are taken from held-out examples.
        loader_name: the program by which every export is loaded back to see that it is worth what the trial was; empty:
            exports are not loaded back.
        rounding: by how much rounding to 16 bits moves what is counted once (a token's loss): a standard deviation.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    model_title: ClassVar[str]
    data_title: ClassVar[str]
    data_found: ClassVar[str]
    data_suffixes: ClassVar[tuple[str, ...]]
    objective_name: ClassVar[str]
    adapter_name: ClassVar[str]
    sample_count: ClassVar[int]
    loader_name: ClassVar[str] = ""
    rounding: ClassVar[float] = 0.0
    #: Its own layout of exported adapters, and the others that one can be exported in.
    layout: ClassVar[str] = "peft"
    other_layouts: ClassVar[Mapping[str, Layout]] = {}

    def __init__(self, base_model: Path, base_model_config: str | None = None) -> None:
        """Name a base model that `looks_like` took for this family's; nothing is read yet.

        Args:
            base_model: a folder or file, which exists.
            base_model_config: the folder with the configuration of a single file, if one was named.
        """
        self.base_model = base_model
        self.base_model_config = base_model_config

    # --- the base model's files

    @staticmethod
    @abc.abstractmethod
    def looks_like(path: Path) -> bool:
        """Whether `path` is meant to be a model of this family, if perhaps a broken one; few bytes are read."""

    @abc.abstractmethod
    def find_files(self) -> object:
        """Find the base model's files and see that they are whole; what is found, the family keeps.

        Raises:
            UserError: everything that is missing, of another kind, or broken.
        """

    def problems(self, config: TrainConfig) -> Iterable[Problem]:
        """The settings that a model of this family cannot follow, known without its files."""
        return ()

    def check(self, config: TrainConfig) -> None:
        """See that the base model's files are there and whole, and that `config` asks for nothing it cannot do.

        Raises:
            UserError: everything that is missing, not supported, or cannot be read.
        """
        problems = list(self.problems(config))
        try:
            with unreadable_files(self.base_model):
                self.find_files()
        except UserError as error:
            problems += error.problems
        if problems:
            raise UserError(problems)

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash of the model's files; of large ones samples are read.

        Raises:
            UserError: the files cannot be used any more.
        """

    def likely_learning_rate(self, config: TrainConfig) -> float | None:
        """The learning rate at which a search should begin for a trial; None where nothing is known of it."""
        return None

    @abc.abstractmethod
    def dtype(self, config: TrainConfig, device: torch.device) -> torch.dtype:
        """The base model's precision on a device."""

    @abc.abstractmethod
    def load(self, config: TrainConfig, device: torch.device, dtype: torch.dtype) -> BaseModel:
        """Load and freeze the base model on a device.

        Raises:
            UserError: it cannot be loaded.
        """

    @abc.abstractmethod
    def meta_model(self, config: TrainConfig, dtype: torch.dtype) -> BaseModel:
        """The base model without its weights, on torch's meta device: what it costs can be counted with it.

        Raises:
            UserError: its configuration makes no model.
        """

    def starting_point(self, config: TrainConfig, base: BaseModel) -> dict[str, torch.Tensor]:
        """The tensors from which a trial starts in place of fresh ones, by the names of an adapter's; none for most.

        Raises:
            UserError: what is named to start from does not fit.
        """
        return {}

    # --- the data

    @abc.abstractmethod
    def read(self, config: TrainConfig) -> Found:
        """All examples of the data that `config` names, in a fixed order, and notes for the person.

        What the base model could not learn from is left out, and the notes tell of it: a plan promises what is read.

        Raises:
            UserError: everything that is wrong with the data.
        """

    def learned(
        self, config: TrainConfig, train: Sequence[Example], beside: Sequence[Example]
    ) -> tuple[Sequence[Example], Sequence[str]]:
        """The training examples of an epoch, of `train` and `Found.beside`, in the forms learned; and notes."""
        epoch = [example for example in train for _ in range(example.repeats)]
        note = f"with repeats, an epoch is {len(epoch)} training examples of {len(train)}"
        return epoch, (note,) if len(epoch) > len(train) else ()

    def output_problem(self, data: Path, output: Path) -> Problem | None:
        """Why a run's folder must not lie where it does, by what would be read of it; both paths are absolute."""
        return None

    def show_encoded(self, config: TrainConfig, examples: Sequence[Example]) -> list[str]:
        """Examples as the model reads them, in words: a text for each.

        Raises:
            UserError: the base model cannot be used; or nothing that can be read enters it.
        """
        raise UserError.one(f"{self.model_title} reads no tokens", key="--show-tokens", hint="leave it out")

    def data_info(self, config: TrainConfig, examples: Sequence[Example]) -> dict[str, str]:
        """The metadata of an exported adapter on the examples it learned from."""
        return {}

    # --- the value of a trial

    @staticmethod
    @abc.abstractmethod
    def objective(losses: Losses, counts: Losses, base: Losses) -> Losses:
        """The value (lower is better) of a trial from its losses on held-out examples.

        It depends on the examples by their sums alone: `objective(x, y, z)` is that of `x.sum(-2, keepdims=True)` and
        so on. A bootstrap of a thousand draws is then one product of matrices.

        Args:
            losses: summed losses, (..., examples, validation rows).
            counts: what each was summed over (tokens, or 1), same shape, or one that broadcasts.
            base: the base model's own losses on the same rows, likewise.

        Returns:
            A value for each set of examples: (...).
        """

    # --- samples

    @staticmethod
    @abc.abstractmethod
    def prompts(held_out: Sequence[Example]) -> list[Prompt]:
        """The prompts of held-out examples with a person's answers, in their order, each prompt once."""

    @abc.abstractmethod
    def generate(self, config: TrainConfig, adapter: Path | None, prompts: Sequence[Prompt]) -> list[Any]:
        """A picture or a text for each prompt by base model (adapter None) or *exported* adapter, as people load it.

        Raises:
            UserError: as `load`; or a prompt cannot be asked.
        """

    # --- the adapter

    @classmethod
    @abc.abstractmethod
    def export(cls, target: Path, tensors: Mapping[str, Any], config: TrainConfig, info: Mapping[str, str]) -> Path:
        """Write an adapter in the form that other programs load; it appears whole or not at all.

        Args:
            target: the file or folder.
            tensors: `<module>.lora_A.weight` and `<module>.lora_B.weight`, torch's.
            config: what the trial was trained with.
            info: further metadata, by kohya's names (`ss_num_train_images`, ...).

        Returns:
            `target`.

        Raises:
            UserError: no room, no permission, or something else lies there.
        """

    def talk(self, config: TrainConfig, adapter: Path) -> Talk:
        """Load the base model and an exported adapter to talk with both.

        Args:
            config: the trial's.
            adapter: as `export` wrote it.

        Raises:
            UserError: as `load`; or models of this family do not talk.
        """
        raise UserError.one(
            f"{self.model_title} does not talk", where=str(self.base_model), hint="its samples are in the run's report"
        )

    def exported_value(self, config: TrainConfig, adapter: Path, held_out: Sequence[Example]) -> float:
        """The value of an *exported* adapter on held-out examples, as `loader_name` loads it.

        Args:
            config: the trial's.
            adapter: as `export` wrote it.
            held_out: the examples that the trial was judged by.

        Raises:
            UserError: as `load`.
            NotImplementedError: the family has no `loader_name`.
        """
        raise NotImplementedError

    @classmethod
    @abc.abstractmethod
    def export_target(cls, to: Path) -> Path:
        """The file or folder that an export to `to` writes; an older adapter there, and nothing else, is replaced.

        Raises:
            UserError: something else lies there, or an adapter cannot have that name.
        """

    @classmethod
    @abc.abstractmethod
    def usage(cls, name: str, base_model: str, adapter: Path, rank: int) -> list[Snippet]:
        """How people use the exported adapter in the programs they have; paths of it count from the folder it lies in.

        Args:
            name: of the sweep, as a file or a model can be called.
            base_model: as the configuration names it.
            adapter: the exported file or folder, which may have gone.
            rank: the adapter's.
        """

    # --- the report's words

    @classmethod
    @abc.abstractmethod
    def explain(cls, value: float, base_value: float, held_out: str) -> str:
        """A value in a unit people know, as a sentence.

        Args:
            value: the winner's.
            base_value: the base model's.
            held_out: the examples, in words: "24 held-out examples".
        """

    @classmethod
    def hints(cls, rank: int) -> list[str]:
        """Advice on programs that an adapter of this rank asks something of, in sentences."""
        return []


@contextlib.contextmanager
def unreadable_files(path: Path) -> Iterator[None]:
    """Turn what the system refuses while the files of a base model are looked at into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError.one(
            f"cannot be read: {error.strerror or error}",
            where=shown(error.filename or path),
            key="base_model",
            hint="see that you may read it and all that is in it, or give another base model",
        ) from error
