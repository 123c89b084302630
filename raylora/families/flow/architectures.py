"""The architectures of flow-matching image models that are known, as far as names go. Imports no torch."""

from __future__ import annotations

import dataclasses

_BLOCKS = r"(single_)?transformer_blocks\.\d+\."
_ATTENTION = rf"{_BLOCKS}attn2?\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
_REFINED = r"(layers|noise_refiner|context_refiner)\.\d+\."
NOTHING = r"(?!)"  #: a pattern that matches no name
LAST = "LAST"
_FEED_FORWARD = rf"{_BLOCKS}ff(_context)?\.net\.(0\.proj|2)"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A kind of transformer with what belongs to it in a pipeline.

    Attributes:
        name: short, as fingerprints hold it.
        title: for people.
        pipelines: diffusers' classes.
        transformer: diffusers' class.
        texts: text encoders by the names of their parts; each has a tokenizer.
        caption_tokens: of a caption that are read.
        patch: latents along a side that become one token.
        side: pixels of a square image that it was made for, if its configuration does not say.
        attention: a pattern of the layers that `lora_targets: attention` means.
        linear: of those that `linear` adds.
        all: of those that `all` adds.
        marks: parts of names of tensors that tell it apart as a single file.
        base_version: sd-scripts' name of the base model.
        modelspec: Stability's.
        implementation: of the original.
        dead: a pattern of layers of the last block (`LAST`) that get no update: what comes of them is thrown away, or
            another program would apply it wrongly.
    """

    name: str
    title: str
    pipelines: tuple[str, ...]
    transformer: str
    texts: tuple[str, ...]
    caption_tokens: int
    attention: str
    linear: str
    all: str
    marks: tuple[str, ...]
    base_version: str
    modelspec: str
    implementation: str
    dead: str = NOTHING
    patch: int = 2
    side: int = 1024

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """The tokenizers by the names of their parts."""
        return tuple(name.replace("text_encoder", "tokenizer") for name in self.texts)

    def metadata(self) -> dict[str, str]:
        """Metadata that say for which base model an adapter is."""
        return {
            "ss_base_model_version": self.base_version,
            "modelspec.architecture": self.modelspec,
            "modelspec.implementation": self.implementation,
        }

    def pattern(self, word: str) -> str:
        """The layers that a word of `lora_targets` means."""
        parts = {"attention": (self.attention,), "linear": (self.attention, self.linear)}
        return "|".join(parts.get(word, (self.attention, self.linear, self.all)))


#: In the order in which a single file is offered to their marks: Flux.2 has those of Flux.1 too.
ARCHITECTURES = (
    Architecture(
        name="flux2",
        title="Flux.2",
        pipelines=("Flux2KleinPipeline", "Flux2Pipeline"),
        transformer="Flux2Transformer2DModel",
        texts=("text_encoder",),
        caption_tokens=512,
        attention=rf"{_ATTENTION}|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)",
        linear=r"transformer_blocks\.\d+\.ff(_context)?\.linear_(in|out)",
        all=NOTHING,  # blocks share their modulations
        marks=("double_stream_modulation_img.", "single_blocks.0.linear1."),
        base_version="flux2",
        modelspec="flux-2/lora",
        implementation="https://github.com/black-forest-labs/flux2",
        patch=1,
    ),
    Architecture(
        name="flux",
        title="Flux.1",
        pipelines=("FluxPipeline",),
        transformer="FluxTransformer2DModel",
        texts=("text_encoder", "text_encoder_2"),
        caption_tokens=512,
        attention=_ATTENTION,
        linear=rf"{_FEED_FORWARD}|single_transformer_blocks\.\d+\.(proj_mlp|proj_out)",
        all=rf"{_BLOCKS}(norm|norm1|norm1_context)\.linear",
        marks=("double_blocks.0.img_attn.", "single_blocks.0.linear1."),
        base_version="flux1",
        modelspec="flux-1-dev/lora",
        implementation="https://github.com/black-forest-labs/flux",
    ),
    Architecture(
        name="sd3",
        title="Stable Diffusion 3",
        pipelines=("StableDiffusion3Pipeline",),
        transformer="SD3Transformer2DModel",
        texts=("text_encoder", "text_encoder_2", "text_encoder_3"),
        caption_tokens=256,
        attention=_ATTENTION,
        linear=_FEED_FORWARD,
        all=rf"{_BLOCKS}(norm1|norm1_context)\.linear",
        marks=("joint_blocks.0.x_block.",),
        base_version="sd3",
        modelspec="stable-diffusion-3/lora",
        implementation="https://github.com/Stability-AI/generative-models",
        # the two halves of the last text block's modulation lie the other way round in the original
        dead=rf"transformer_blocks\.{LAST}\.(attn\.add_q_proj|norm1_context\.linear)",
    ),
    Architecture(
        name="qwen_image",
        title="Qwen-Image",
        pipelines=("QwenImagePipeline",),
        transformer="QwenImageTransformer2DModel",
        texts=("text_encoder",),
        caption_tokens=512,
        attention=_ATTENTION,
        linear=r"transformer_blocks\.\d+\.(img|txt)_mlp\.net\.(0\.proj|2)",
        all=r"transformer_blocks\.\d+\.(img|txt)_mod\.1",
        marks=("transformer_blocks.0.img_mod.", "img_in."),
        base_version="qwen_image",
        modelspec="qwen-image/lora",
        implementation="https://github.com/QwenLM/Qwen-Image",
        dead=rf"transformer_blocks\.{LAST}\.(attn\.(add_q_proj|to_add_out)|txt_mlp\..*)",
    ),
    Architecture(
        name="z_image",
        title="Z-Image",
        pipelines=("ZImagePipeline",),
        transformer="ZImageTransformer2DModel",
        texts=("text_encoder",),
        caption_tokens=512,
        attention=rf"{_REFINED}attention\.(to_[qkv]|to_out\.0)",
        linear=rf"{_REFINED}feed_forward\.w[123]",
        all=rf"{_REFINED}adaLN_modulation\.0",
        marks=("noise_refiner.0.attention.", "cap_embedder.", "cap_pad_token"),
        base_version="zimage",
        modelspec="z-image/lora",
        implementation="https://github.com/Tongyi-MAI/Z-Image",
    ),
)


def by_pipeline(name: str) -> Architecture | None:
    """The architecture of a pipeline, by its class's name; None if it is none of these."""
    return next((one for one in ARCHITECTURES if name in one.pipelines), None)


def by_transformer(name: str) -> Architecture | None:
    """The architecture of a transformer, by its class's name; None if it is none of these."""
    return next((one for one in ARCHITECTURES if one.transformer == name), None)


def named(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        KeyError: there is none.
    """
    return {one.name: one for one in ARCHITECTURES}[name]
