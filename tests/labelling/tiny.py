"""Models that label, of the real classes and tiny: random weights, but a tagger that tells colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from onnx import TensorProto, checker, helper, save
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ("a", "red", "green", "blue", "cat", "dog", "on", "the", "mat", "sky")
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "<image>", "[DEC]")
PAD, BOS, EOS, UNK, IMAGE, START = range(len(SPECIAL))
SIZE = len(SPECIAL) + len(WORDS)


def tokenizer(bert: bool = False, seeing: bool = True) -> PreTrainedTokenizerFast:
    """A token a word; "<image>" stands for a picture. BERT's put texts between two tokens of their own.

    Processors of models that see ask for its name, but for BLIP-2's, which brings it."""
    words = Tokenizer(models.WordLevel({word: id for id, word in enumerate((*SPECIAL, *WORDS))}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bert:
        ends = [("[CLS]", BOS), ("[SEP]", EOS)]
        words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    made = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        unk_token="[UNK]",
        **({"extra_special_tokens": {"image_token": "<image>"}} if seeing else {}),
    )
    made.add_special_tokens({"additional_special_tokens": ["[DEC]"]})
    return made


def lively(model: torch.nn.Module, seed: int = 0) -> Any:
    """Weights so large that what is said depends on what is seen."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                weights.normal_(0, 0.5)
            elif "norm" not in name.lower():
                weights.zero_()
    return model


def clip_pictures(side: int, **more: Any) -> Any:
    return transformers.CLIPImageProcessorPil(
        size={"height": side, "width": side}, do_center_crop=False, do_resize=True, **more
    )


def blip(folder: Path) -> Path:
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **vision,
        "vocab_size": SIZE,
        "max_position_embeddings": 40,
        "bos_token_id": BOS,
        "pad_token_id": PAD,
        "sep_token_id": EOS,
        "eos_token_id": EOS,
    }
    config = transformers.BlipConfig(text_config=text, vision_config={**vision, "image_size": 16, "patch_size": 8})
    lively(transformers.BlipForConditionalGeneration(config)).save_pretrained(folder)
    pictures = transformers.BlipImageProcessorPil(size={"height": 16, "width": 16})
    transformers.BlipProcessor(pictures, tokenizer(bert=True)).save_pretrained(folder)
    return folder


def blip2(folder: Path) -> Path:
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = transformers.OPTConfig(
        vocab_size=SIZE,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=60,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    config = transformers.Blip2Config(
        vision_config={**vision, "image_size": 16, "patch_size": 8},
        qformer_config={**vision, "vocab_size": SIZE, "encoder_hidden_size": 16, "cross_attention_frequency": 1},
        text_config=text.to_dict(),
        num_query_tokens=3,
        image_token_index=IMAGE,
    )
    lively(transformers.Blip2ForConditionalGeneration(config)).save_pretrained(folder)
    pictures = transformers.BlipImageProcessorPil(size={"height": 16, "width": 16})
    transformers.Blip2Processor(pictures, tokenizer(seeing=False), num_query_tokens=3).save_pretrained(folder)
    return folder


def encoder_decoder(folder: Path) -> Path:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = transformers.ViTConfig(image_size=16, patch_size=8, **sizes)
    decoder = transformers.BertConfig(
        vocab_size=SIZE,
        max_position_embeddings=40,
        is_decoder=True,
        add_cross_attention=True,
        pad_token_id=PAD,
        **sizes,
    )
    model = transformers.VisionEncoderDecoderModel(
        encoder=transformers.ViTModel(encoder, add_pooling_layer=False), decoder=transformers.BertLMHeadModel(decoder)
    )
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=BOS, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=5
    )
    lively(model).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def florence(folder: Path) -> Path:
    vision = transformers.models.florence2.Florence2VisionConfig(
        depths=[1, 1],
        patch_size=[7, 3],
        patch_stride=[4, 2],
        patch_padding=[3, 1],
        patch_prenorm=[False, True],
        embed_dim=[8, 16],
        num_heads=[2, 2],
        num_groups=[2, 2],
        window_size=4,
        projection_dim=16,
        max_position_embeddings=10,
        max_temporal_embeddings=4,
    )
    text = transformers.BartConfig(
        vocab_size=SIZE,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=60,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
        forced_eos_token_id=EOS,
    )
    config = transformers.Florence2Config(vision_config=vision, text_config=text, image_token_id=IMAGE)
    lively(transformers.Florence2ForConditionalGeneration(config), seed=5).save_pretrained(folder)
    pictures = clip_pictures(32)
    pictures.image_seq_length = 17  # 4 x 4 places and their mean
    transformers.Florence2Processor(pictures, tokenizer()).save_pretrained(folder)
    return folder


def llava(folder: Path) -> Path:
    """A vision-language model with a chat template."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=16,
    )
    text = transformers.LlamaConfig(
        vocab_size=SIZE,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=200,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=4)
    lively(transformers.LlavaForConditionalGeneration(config)).save_pretrained(folder)
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
        "{% endfor %}{% endfor %}[CLS]"
    )
    transformers.LlavaProcessor(
        clip_pictures(16),
        tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    return folder


def tagger(folder: Path, tags: Sequence[tuple[str, int]] = (("blue", 0), ("green_grass", 0), ("red", 4))) -> Path:
    """An ONNX network with the interface of SmilingWolf's: how blue, green and red a picture is, as probabilities."""
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 16, 16, 3])
    said = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", len(tags)])
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    most = helper.make_tensor("most", TensorProto.FLOAT, [], [255.0])
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "most"], ["output"]),
    ]
    graph = helper.make_graph(nodes, "tagger", [given], [said], [axes, most])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if len(tags) == 3:
        checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    save(model, folder / "model.onnx")
    rows = [f"{id},{name},{category},1" for id, (name, category) in enumerate(tags)]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]) + "\n")
    return folder
