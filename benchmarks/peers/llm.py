"""The peer for language models: a sweep as people write it today with Ray Tune, PEFT and transformers' Trainer.

    python benchmarks/peers/llm.py SETTINGS.json          the sweep
    python benchmarks/peers/llm.py SETTINGS.json --probe  seconds of a step and of a start, in this process

It knows nothing of raylora. SETTINGS.json names the model, the data, the trials and how they are trained; results go
to the JSON file it names. `precision` is "float32", "bfloat16" (the base model's weights, PEFT's adapters in float32)
or "mixed" (the same under autocast, TrainingArguments(bf16=True)).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def encode(tokenizer: Any, messages: list[dict[str, str]], max_length: int) -> dict[str, list[int]]:
    """Token ids and labels of one chat: loss on the last answer and the token that ends it, nowhere else."""
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"][:max_length]
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "labels": [-100] * min(start, len(ids)) + ids[start:],
    }


def read(path: str, model: str, max_length: int) -> list[dict[str, list[int]]]:
    """A JSONL file of chats, tokenised."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    chats = [json.loads(line)["messages"] for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [encode(tokenizer, chat, max_length) for chat in chats]


def train(params: dict[str, Any], settings: dict[str, Any], data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train one trial and save its adapter; gives its loss on the held-out chats and when what was done."""
    marks = {"begun": time.time()}
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    marks["imported"] = time.time()
    dtype = torch.float32 if settings["precision"] == "float32" else torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=dtype)
    lora = LoraConfig(
        r=params["lora_rank"],
        lora_alpha=settings["lora_alpha"],
        target_modules="all-linear",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.times = [time.time()]

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.times.append(time.time())

    clock = Clock()
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=settings["batch_size"],
        max_steps=settings["steps"],
        learning_rate=params["learning_rate"],
        lr_scheduler_type=settings["lr_scheduler"],
        warmup_steps=settings["warmup_steps"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"],
        bf16=settings["precision"] == "mixed",
        use_cpu=not torch.cuda.is_available(),
        seed=settings["seed"],
        save_strategy="no",
        eval_strategy="no",
        logging_steps=25,
        report_to="none",
        disable_tqdm=True,
        prediction_loss_only=True,
        remove_unused_columns=False,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["held_out"],
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
        callbacks=[clock],
    )
    marks["loaded"] = clock.times[0] = time.time()
    trainer.train()
    marks["trained"] = time.time()
    loss = trainer.evaluate()["eval_loss"] if data["held_out"] else None
    model.save_pretrained(folder / "adapter")
    marks["saved"] = time.time()
    steps = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    return {
        "loss": loss,
        "marks": marks,
        "steps": steps,
        "encode": [0.0] * len(steps),
        "adapter": str(folder / "adapter"),
        "params": params,
    }


def main() -> None:
    """Read the settings, and run what they say."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from tuning import run

    def data(settings: dict[str, Any]) -> dict[str, Any]:
        return {key: read(settings[key], settings["model"], settings["max_length"]) for key in ("train", "held_out")}

    # In a process that goes on, memory falls to pieces: two of them had 10 GiB each after 10 of 16 trials, and steps a
    # quarter slower than at first.
    run(sys.argv[1:], train, data, reuse=False)


if __name__ == "__main__":
    main()
