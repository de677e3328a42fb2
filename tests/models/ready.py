"""Ready vision-language models of a few thousand parameters: every family's own classes, random weights, a folder as the hub has them.

Chat templates follow those of the published models, with nothing in them that is not needed here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from medvlm.preflight.ready import CHATML, GEMMA, IDEFICS, LLAVA, MISTRAL, TEXT, TOWER, WORDS


def tokenizer(special: list[str], bos: str | None, eos: str, **named: str) -> Any:
    """named: tokens that a processor asks the tokenizer for by name, e.g. boi_token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(["<pad>", *filter(None, [bos]), eos, *special]))
    raw.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=380, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    extra = {"extra_special_tokens": named} if named else {}
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token=bos, eos_token=eos, **extra)


def _qwen(model_type: str) -> tuple[Any, Any]:
    import transformers as t

    vision = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = tokenizer(["<|im_start|>", "<|im_end|>", *vision], None, "<|im_end|>")
    ids = dict(zip(("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"), words.convert_tokens_to_ids(vision), strict=True))
    is_3, patch = model_type == "qwen3_vl", 8
    images = t.Qwen2VLImageProcessor(patch_size=patch, min_pixels=16 * 16, max_pixels=64 * 64, merge_size=2, temporal_patch_size=2)
    video = (t.Qwen3VLVideoProcessor if is_3 else t.Qwen2VLVideoProcessor)(patch_size=patch)
    template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    made = {"qwen2_vl": t.Qwen2VLProcessor, "qwen2_5_vl": t.Qwen2_5_VLProcessor, "qwen3_vl": t.Qwen3VLProcessor}[model_type]
    processor = made(images, words, video, chat_template=template)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    shared = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": patch, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32}
    tower = {**shared, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]} if is_3 else {**shared, "window_size": 32, "fullatt_block_indexes": [1]}
    if model_type == "qwen2_vl":
        tower = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": patch, "spatial_merge_size": 2, "temporal_patch_size": 2}
    text = {**TEXT, "vocab_size": len(words), "rope_parameters": rope, "head_dim": 8, "tie_word_embeddings": False}
    return t.AutoConfig.for_model(model_type, vision_config=tower, text_config=text, tie_word_embeddings=False, **ids), processor


def qwen2_vl() -> tuple[Any, Any]:
    return _qwen("qwen2_vl")


def qwen2_5_vl() -> tuple[Any, Any]:
    return _qwen("qwen2_5_vl")


def qwen3_vl() -> tuple[Any, Any]:
    return _qwen("qwen3_vl")


def gemma3() -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ImageProcessor, Gemma3Processor

    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = tokenizer(["<start_of_turn>", "<end_of_turn>", *names.values()], "<bos>", "<eos>", **names)
    processor = Gemma3Processor(Gemma3ImageProcessor(size={"height": 32, "width": 32}), words, chat_template=GEMMA, image_seq_length=4)
    text = {**TEXT, "vocab_size": len(words), "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"]}
    ids = {f"{k}_token_{'index' if k != 'image' else 'id'}": words.convert_tokens_to_ids(v) for k, v in zip(("boi", "eoi", "image"), names.values(), strict=True)}
    tower = {**TOWER, "image_size": 32, "patch_size": 8, "vision_use_head": False}
    return Gemma3Config(text_config=text, vision_config=tower, mm_tokens_per_image=4, eos_token_id=words.convert_tokens_to_ids(["<eos>", "<end_of_turn>"]), **ids), processor


def internvl() -> tuple[Any, Any]:
    from transformers import AutoConfig, GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    words = tokenizer(["<|im_start|>", "<|im_end|>", *names.values()], None, "<|im_end|>", **names)
    images = GotOcr2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=True, min_patches=1, max_patches=4)
    processor = InternVLProcessor(images, words, InternVLVideoProcessor(size={"height": 32, "width": 32}), image_seq_length=4, chat_template=CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"))
    tower = {**TOWER, "image_size": [32, 32], "patch_size": [8, 8]}
    text = {"model_type": "qwen2", **TEXT, "vocab_size": len(words)}
    return AutoConfig.for_model("internvl", vision_config=tower, text_config=text, image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=4, downsample_ratio=0.5), processor


def llava() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaProcessor

    words = tokenizer(["<image>"], "<s>", "</s>")
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(images, words, patch_size=8, vision_feature_select_strategy="default", chat_template=LLAVA, num_additional_image_tokens=1)
    tower = {"model_type": "clip_vision_model", **TOWER, "image_size": 32, "patch_size": 8}
    text = {"model_type": "llama", **TEXT, "vocab_size": len(words)}
    return LlavaConfig(vision_config=tower, text_config=text, image_token_index=words.convert_tokens_to_ids("<image>"), vision_feature_layer=-2, image_seq_length=16), processor


def llava_onevision() -> tuple[Any, Any]:
    from transformers import LlavaOnevisionConfig, LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    grid = [[32, 32], [32, 64], [64, 32], [64, 64], [32, 96], [96, 32]]
    words = tokenizer(["<|im_start|>", "<|im_end|>", "<image>", "<video>"], None, "<|im_end|>")
    images = LlavaOnevisionImageProcessor(size={"height": 32, "width": 32}, image_grid_pinpoints=grid)
    video = LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32})
    template = CHATML.replace("IMAGE", "<image>\n")
    processor = LlavaOnevisionProcessor(images, words, video, num_image_tokens=16, vision_feature_select_strategy="full", chat_template=template)
    tower = {"model_type": "siglip_vision_model", **TOWER, "image_size": 32, "patch_size": 8, "vision_use_head": False}
    ids = {"image_token_index": words.convert_tokens_to_ids("<image>"), "video_token_index": words.convert_tokens_to_ids("<video>")}
    text = {"model_type": "qwen2", **TEXT, "vocab_size": len(words)}
    return LlavaOnevisionConfig(vision_config=tower, text_config=text, image_grid_pinpoints=grid, vision_feature_layer=-1, **ids), processor


def _idefics(model_type: str) -> tuple[Any, Any]:
    import transformers as t

    rows = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    names = {"fake_image_token": "<fake_token_around_image>", "image_token": "<image>", "end_of_utterance_token": "<end_of_utterance>", "global_image_token": "<global-img>"}
    words = tokenizer(["<|im_start|>", *names.values(), *rows], "<|im_start|>", "<end_of_utterance>", **(names if model_type == "smolvlm" else {}))
    sizes = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    if model_type == "smolvlm":
        video = t.SmolVLMVideoProcessor(size={"longest_edge": 32}, video_sampling={"fps": 1, "max_frames": 4, "video_size": {"longest_edge": 32}})
        processor: Any = t.SmolVLMProcessor(t.SmolVLMImageProcessor(**sizes), words, video, image_seq_len=4, chat_template=IDEFICS)
    else:
        processor = t.Idefics3Processor(t.Idefics3ImageProcessor(**sizes), words, image_seq_len=4, chat_template=IDEFICS)
    tower = {**TOWER, "image_size": 32, "patch_size": 8}
    text = {"model_type": "llama", **TEXT, "vocab_size": len(words), "pad_token_id": words.pad_token_id}
    image_id = words.convert_tokens_to_ids("<image>")
    return t.AutoConfig.for_model(model_type, vision_config=tower, text_config=text, image_token_id=image_id, scale_factor=2, pad_token_id=words.pad_token_id), processor


def idefics3() -> tuple[Any, Any]:
    return _idefics("idefics3")


def smolvlm() -> tuple[Any, Any]:
    return _idefics("smolvlm")


def paligemma() -> tuple[Any, Any]:
    from transformers import PaliGemmaConfig, PaliGemmaProcessor, SiglipImageProcessor

    words = tokenizer(["<image>"], "<bos>", "<eos>", image_token="<image>")
    images = SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, words)  # the published processors have no chat template
    tower = {"model_type": "siglip_vision_model", **TOWER, "image_size": 32, "patch_size": 8, "projection_dim": 32, "vision_use_head": False}
    text = {"model_type": "gemma", **TEXT, "vocab_size": len(words), "head_dim": 8}
    return PaliGemmaConfig(vision_config=tower, text_config=text, image_token_index=words.convert_tokens_to_ids("<image>"), projection_dim=32, eos_token_id=words.eos_token_id), processor


def mistral3() -> tuple[Any, Any]:
    from transformers import Mistral3Config, PixtralImageProcessor, PixtralProcessor

    words = tokenizer(["[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"], "<s>", "</s>")
    images = PixtralImageProcessor(patch_size=8, size={"longest_edge": 64})
    processor = PixtralProcessor(images, words, patch_size=8, spatial_merge_size=2, chat_template=MISTRAL)
    tower = {"model_type": "pixtral", **TOWER, "head_dim": 16, "image_size": 64, "patch_size": 8}
    text = {"model_type": "mistral", **TEXT, "vocab_size": len(words), "head_dim": 8, "sliding_window": None}
    return Mistral3Config(vision_config=tower, text_config=text, image_token_index=words.convert_tokens_to_ids("[IMG]"), spatial_merge_size=2, vision_feature_layer=-1), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    f.__name__: f for f in (qwen2_vl, qwen2_5_vl, qwen3_vl, gemma3, internvl, llava, llava_onevision, idefics3, smolvlm, paligemma, mistral3)
}


def saved(family: str, folder: Path, seed: int = 0) -> Path:
    """The model's folder: weights spread enough that its distributions are far from uniform."""
    from transformers import AutoModelForImageTextToText

    config, processor = FAMILIES[family]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
