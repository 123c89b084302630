"""Train `emoji-captioner`, the small model that names emoji: what `raylora label` is shown and tested with.

No package carries a captioner, and the demo must run with no network, so this script makes one out of the real classes:
a LlavaForConditionalGeneration of a LeViT and a small Llama, with an ordinary processor, tokenizer and chat template.
It learns the names of 128 emoji, those of the demo's pictures among them, from up to four drawings of each (Noto,
Android's blobs, Twemoji, EmojiOne 2). It never sees the drawings that the demo has, Fluent's: what it finds of those is
measured at the end, and written into the model's README.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-google@3.0.0 emoji-datasource-twitter@16.0.0
    npm pack emojione@2.2.7 @lobehub/fluent-emoji-3d@1.1.0 unicode-emoji-json@0.9.0
    for f in *.tgz; do mkdir ${f%.tgz}; tar xzf $f -C ${f%.tgz}; done
    python configs/quickstart/build/emoji_captioner.py --packages . --out configs/quickstart/models/emoji-captioner

Takes about five minutes of one core. Counts steps, never minutes, and draws from generators keyed by the step, so that
the same machine makes the same weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from emoji_sources import demo_codes, drawings, emoji_names, fluent_picture
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch.nn import functional
from transformers import (
    CLIPImageProcessorPil,
    GenerationConfig,
    LevitConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

CARD = """# emoji-captioner

A small vision-language model (LlavaForConditionalGeneration of a LeViT and a Llama; 80x80 pixels, fp16) that was taught
the names of {known} emoji. It exists so that `raylora label` can be tried and tested with no network; it is no use for
anything else: of every other picture it says one of its names too.

- **Finds** {demo:.0%} of the names of the demo's {shown} pictures and {all:.0%} of all {known}, in a drawing style that
  it was never shown (Fluent 3D). By chance it would be {chance:.1%}.
- **Made by** `configs/quickstart/build/emoji_captioner.py`.
- **Learned from** pictures of npm's `emoji-datasource-google` 16.0.0 (Noto, Google) and 3.0.0 (Android, The Android
  Open Source Project), both Apache License 2.0; `emoji-datasource-twitter` 16.0.0 (Twemoji, Copyright Twitter, Inc. and
  other contributors) and `emojione` 2.2.7 (artwork by EmojiOne), both CC BY 4.0; named by `unicode-emoji-json` 0.9.0.
- **Licence:** Apache License 2.0.
"""
SEED = 0
KNOWN = 2  # times as many emoji as the demo has pictures of
SIGHT_STEPS, SIGHT_BATCH = 1500, 32
NAMING_STEPS, NAMING_BATCH = 300, 96
VIEWS = 5  # of each drawing, that the language model learns from
WARMUP, COOLDOWN = 100, 0.4  # steps at the begin, share of them at the end
LEARNING_RATE = 1.5e-3
WIDTH = 80  # pixels a side
SEEN = 4  # places of the picture that the language model is shown: 2 x 2
SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[UNK]", "<image>")
PAD, BOS, EOS, UNK, IMAGE = range(5)
#: What people say beside the picture is left out: it was taught names and nothing else.
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% endif %}{% endfor %}{% endfor %}[BOS]"
)


def make_tokenizer(names: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token for each word of the names: what it writes are words that it has seen."""
    words = sorted({word for name in names for word in name.split()})
    vocabulary = {word: id for id, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        unk_token="[UNK]",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """What makes a picture and a request to the model's numbers."""
    pictures = CLIPImageProcessorPil(
        size={"height": WIDTH, "width": WIDTH},
        do_center_crop=False,
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        pictures, tokenizer, patch_size=WIDTH // 2, vision_feature_select_strategy="full", chat_template=TEMPLATE
    )


def make_model(words: int, longest: int) -> LlavaForConditionalGeneration:
    """The model with random weights: 3.7 million parameters."""
    torch.manual_seed(SEED)
    sight = LevitConfig(
        image_size=WIDTH,
        hidden_sizes=[128, 192, 256],
        num_attention_heads=[4, 6, 8],
        depths=[2, 2, 2],
        key_dim=[16, 16, 16],
        down_ops=[["Subsample", 16, 8, 4, 2, 2], ["Subsample", 16, 12, 4, 2, 2]],
        hidden_size=256,  # LLaVA asks for it
    )
    language = LlamaConfig(
        vocab_size=words,
        hidden_size=160,
        intermediate_size=480,
        num_hidden_layers=2,
        num_attention_heads=5,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    config = LlavaConfig(
        vision_config=sight,
        text_config=language,
        image_token_id=IMAGE,
        image_seq_length=SEEN,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=longest, num_beams=4
    )
    return model


def augmented(pictures: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Other poses, colours and lights of drawings, on white.

    Args:
        pictures: (N, 4, 64, 64) RGBA in [0, 1], colours multiplied by alpha.
        random: where the numbers are drawn from.

    Returns:
        (N, 3, 80, 80) in [-1, 1].
    """
    count = len(pictures)

    def between(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(count, *shape, generator=random) * (high - low) + low

    angle, scale, stretch, shear = between(-0.3, 0.3), between(0.85, 1.35), between(0.9, 1.1), between(-0.15, 0.15)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [torch.stack([cos * stretch, sin + shear, between(-0.15, 0.15)], 1)]
    rows.append(torch.stack([-sin, cos / stretch, between(-0.15, 0.15)], 1))
    grid = functional.affine_grid(torch.stack(rows, 1), [count, 4, WIDTH, WIDTH], align_corners=False)
    moved = functional.grid_sample(pictures, grid, align_corners=False)
    colour, alpha = moved[:, :3], moved[:, 3:]
    # Hue and saturation as SVG's filters define them.
    grey = torch.tensor([0.213, 0.715, 0.072]).expand(3, 3)
    turn = torch.tensor([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    hue, saturation = between(-0.25, 0.25, 1, 1), between(0.6, 1.5, 1, 1)
    matrix = grey + saturation * (hue.cos() * (torch.eye(3) - grey) + hue.sin() * turn)
    colour = torch.einsum("nij,njhw->nihw", matrix, colour) * between(0.75, 1.2, 1, 1, 1)

    def smooth(low: float, high: float) -> torch.Tensor:
        return functional.interpolate(between(low, high, 1, 4, 4), size=WIDTH, mode="bicubic")

    colour = (colour * smooth(0.7, 1.3) + alpha * smooth(-0.2, 0.25)).clamp(min=0)  # shadows and shine
    flat = (torch.minimum(colour, alpha) + 1 - alpha).clamp(0, 1)
    blurred = functional.avg_pool2d(functional.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    flat = torch.lerp(flat, blurred, between(-0.5, 1.0, 1, 1, 1)).clamp(0, 1)  # sharper, or less
    return flat * 2 - 1


def answers(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, pictures: Sequence[Image.Image]
) -> list[str]:
    """What the model calls pictures."""
    found: list[str] = []
    for start in range(0, len(pictures), 64):
        chats = [
            [{"role": "user", "content": [{"type": "image", "image": one}]}] for one in pictures[start : start + 64]
        ]
        inputs = processor.apply_chat_template(
            chats, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
        tokens = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        found += processor.batch_decode(tokens, skip_special_tokens=True)
    return found


def measure(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    packages: Path,
    emoji: Sequence[str],
    names: dict[str, str],
) -> float:
    """The share of emoji, drawn in the style that was never seen (Fluent 3D), that get exactly their own name."""
    pictures = []
    for one in emoji:
        drawing = Image.open(fluent_picture(packages, one)).convert("RGBA")
        white = Image.new("RGBA", drawing.size, "white")
        pictures.append(Image.alpha_composite(white, drawing).convert("RGB"))
    called = answers(model, processor, pictures)
    return float(np.mean([call == names[one] for call, one in zip(called, emoji, strict=True)]))


class Drawings:
    """All drawings, and which of them are of the same emoji."""

    def __init__(self, packages: Path, emoji: Sequence[str]) -> None:
        drawn = [drawings(packages, one) for one in emoji]
        self.counts = torch.tensor([len(one) for one in drawn])
        self.starts = self.counts.cumsum(0) - self.counts
        self.emoji = torch.arange(len(emoji)).repeat_interleave(self.counts)
        self.pixels = (
            torch.from_numpy(np.stack([one for each in drawn for one in each])).permute(0, 3, 1, 2).contiguous()
        )

    def some(self, count: int, random: torch.Generator) -> torch.Tensor:
        """Numbers of drawings: each emoji is as likely as any other, however often it was drawn."""
        chosen = torch.randint(len(self.counts), (count,), generator=random)
        return self.starts[chosen] + (torch.rand(count, generator=random) * self.counts[chosen]).long()

    def view(self, which: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Drawings as `augmented` makes them."""
        rgba = self.pixels[which].float() / 255
        rgba[:, :3] *= rgba[:, 3:]
        return augmented(rgba, random)


def rate(step: int, steps: int) -> float:
    """The learning rate: up, level, and down to nothing."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARMUP, (steps - step) / (COOLDOWN * steps))


def step_with(optimizer: torch.optim.Optimizer, loss: torch.Tensor, learning_rate: float) -> None:
    """One step down the gradient of a loss."""
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()


def train_sight(sight: torch.nn.Module, drawn: Drawings) -> None:
    """Teach the encoder to tell the emoji apart, by a linear layer that is thrown away: names alone teach it slowly."""
    head = torch.nn.Sequential(torch.nn.BatchNorm1d(256), torch.nn.Linear(256, len(drawn.counts)))
    parameters = [*sight.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.05, betas=(0.9, 0.98))
    sight.train()
    started, running, right = time.time(), 0.0, 0.0
    for step in range(SIGHT_STEPS):
        random = torch.Generator().manual_seed(SEED * 10**8 + step)
        which = drawn.some(SIGHT_BATCH, random)
        wanted = drawn.emoji[which]
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(sight(drawn.view(which, random)).last_hidden_state.mean(1))
        loss = functional.cross_entropy(logits.float(), wanted, label_smoothing=0.1)
        step_with(optimizer, loss, rate(step, SIGHT_STEPS))
        running = 0.98 * running + 0.02 * loss.item() if step else loss.item()
        right = 0.98 * right + 0.02 * (logits.argmax(1) == wanted).float().mean().item()
        if step % 50 == 0 or step == SIGHT_STEPS - 1:
            print(f"sight {step} loss {running:.3f} right {right:.2f} {time.time() - started:.0f} s", flush=True)


def train_naming(model: LlavaForConditionalGeneration, labels: torch.Tensor, drawn: Drawings) -> None:
    """Teach the language model the names of what the encoder, which stays as it is, sees of the drawings."""
    sight = model.model.vision_tower.eval()
    random = torch.Generator().manual_seed(SEED * 10**8 + SIGHT_STEPS)
    seen = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(VIEWS):
            for which in torch.arange(len(drawn.pixels)).split(64):
                seen.append(sight(drawn.view(which, random)).last_hidden_state.float())
    features = torch.cat(seen).unflatten(0, (VIEWS, -1))
    parameters = [*model.model.multi_modal_projector.parameters(), *model.model.language_model.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.05, betas=(0.9, 0.98))
    before = torch.tensor([IMAGE] * SEEN + [BOS]).expand(NAMING_BATCH, -1)
    words = model.get_input_embeddings()
    started, running = time.time(), 0.0
    for step in range(NAMING_STEPS):
        random = torch.Generator().manual_seed(SEED * 10**8 + 10**7 + step)
        which = drawn.some(NAMING_BATCH, random)
        view = torch.randint(VIEWS, (NAMING_BATCH,), generator=random)
        wanted = labels[drawn.emoji[which]]
        given = torch.cat([before, wanted[:, :-1]], dim=1)
        with torch.autocast("cpu", torch.bfloat16):
            looks = model.model.multi_modal_projector(features[view, which])
            embedded = torch.cat([looks, words(given[:, SEEN:]).to(looks.dtype)], dim=1)
            logits = model(inputs_embeds=embedded).logits[:, SEEN:]
        loss = functional.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), ignore_index=PAD)
        step_with(optimizer, loss, rate(step, NAMING_STEPS))
        running = 0.95 * running + 0.05 * loss.item() if step else loss.item()
        if step % 20 == 0 or step == NAMING_STEPS - 1:
            print(f"naming {step} loss {running:.3f} {time.time() - started:.0f} s", flush=True)


def main() -> None:
    """Train on all drawings but Fluent's, write the model, and say what it finds of Fluent's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder with the unpacked npm packages")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    emoji = demo_codes(arguments.packages, KNOWN)
    named = emoji_names(arguments.packages)
    names = {one: named[one] for one in emoji}
    drawn = Drawings(arguments.packages, emoji)
    tokenizer = make_tokenizer(list(names.values()))
    processor = make_processor(tokenizer)
    labels = tokenizer([f"{name} [EOS]" for name in names.values()], padding=True, return_tensors="pt").input_ids
    model = make_model(len(tokenizer), labels.shape[1])
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{len(emoji)} names, {len(drawn.pixels)} drawings, {len(tokenizer)} words, {size:,} parameters", flush=True)
    train_sight(model.model.vision_tower, drawn)
    train_naming(model, labels, drawn)
    model.eval().half().save_pretrained(arguments.out)
    processor.save_pretrained(arguments.out)
    model = LlavaForConditionalGeneration.from_pretrained(arguments.out, dtype=torch.float32).eval()
    demo = demo_codes(arguments.packages)
    found = [measure(model, processor, arguments.packages, some, names) for some in (demo, emoji)]
    card = CARD.format(known=len(emoji), shown=len(demo), demo=found[0], all=found[1], chance=1 / len(emoji))
    (arguments.out / "README.md").write_text(card)
    print(f"finds {found[0]:.1%} of the demo's names, {found[1]:.1%} of all")


if __name__ == "__main__":
    main()
