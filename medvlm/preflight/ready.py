"""Ready vision-language models without published files: every family's own classes and processor, at real size to be
planned, or of a few thousand parameters to be run. Tokenizers are small, and chat templates follow those of the
published models with nothing in them that is not needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from medvlm.core.errors import RecipeError
from medvlm.preflight.known import Known

WORDS = [
    "Which side is the finding on? left right",
    "How many opacities are there? 0 1 2 3 4 5 6 7 8 9",
    "none [12, 340, 56, 789]",
    "What does the image show?",
] * 8
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['content'] is string %}{{ m['content'] }}{%"
    " else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ 'IMAGE' }}{% else %}{{ p['text'] }}{% endif"
    " %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{"
    " '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role'])"
    " + '\n' }}{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}{% for p in m['content'] %}{% if"
    " p['type'] == 'image' %}{{ '<start_of_image>' }}{% else %}{{ p['text'] | trim }}{% endif %}{% endfor %}{% endif"
    " %}{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAVA = (
    "{% for m in messages %}{{ m['role'].upper() + ':' }}{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ '"
    " <image>\n' }}{% endif %}{% endfor %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ ' ' + p['text'] +"
    " (eos_token if m['role'] == 'assistant' else ' ') }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt"
    " %}{{ 'ASSISTANT:' }}{% endif %}"
)
IDEFICS = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}{% if m['content'][0]['type'] == 'image' %}{{ ':'"
    " }}{% else %}{{ ': ' }}{% endif %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% else"
    " %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{"
    " 'Assistant:' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST]' }}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}{{ '[IMG]' }}{% else %}{{ p['text'] }}{% endif %}{% endfor %}{{ '[/INST]' }}"
    "{% else %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
)

Made = tuple[dict[str, Any], Any]
"""Config of transformers, and processor."""


def saved(family: str, folder: Path, seed: int = 0) -> Path:
    """A tiny model of the family as a folder: weights spread enough that its distributions are far from uniform."""
    from transformers import AutoModelForImageTextToText

    config, processor = made(family)
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


def planned(found: Known, folder: Path) -> Path:
    """A described model as a folder without weights: its config and its processor, with the words of a small
    tokenizer."""
    config, processor = made(found.config["model_type"], found)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def made(family: str, real: Known | None = None) -> tuple[Any, Any]:
    """Config and processor. real: whose sizes they have; by default tiny ones. Raises RecipeError for a family that is
    not known here."""
    from transformers import AutoConfig

    if family not in FAMILIES:
        raise RecipeError(
            f"model.pretrained: nothing is known of the processor of a {family!r} here; give the path of its folder"
        )
    config, processor = FAMILIES[family](real)
    return AutoConfig.for_model(config.pop("model_type", family), **config), processor


def tokenizer(special: list[str], bos: str | None, eos: str, **named: str) -> Any:
    """named: tokens that a processor asks the tokenizer for by name, e.g. boi_token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(["<pad>", *filter(None, [bos]), eos, *special]))
    raw.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(
            vocab_size=380,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    extra = {"extra_special_tokens": named} if named else {}
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token=bos, eos_token=eos, **extra)


def _config(real: Known | None, tiny: Mapping[str, Any], ids: Mapping[str, Any]) -> dict[str, Any]:
    return {**(real.config if real else tiny), **ids}


def _qwen(family: str, real: Known | None) -> Made:
    import transformers as t

    vision = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = tokenizer(["<|im_start|>", "<|im_end|>", *vision], None, "<|im_end|>")
    ids = dict(
        zip(
            ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"),
            words.convert_tokens_to_ids(vision),
            strict=True,
        )
    )
    is_3, patch = family == "qwen3_vl", 8
    sizes = (
        real.preprocessor
        if real
        else {
            "patch_size": patch,
            "min_pixels": 16 * 16,
            "max_pixels": 64 * 64,
            "merge_size": 2,
            "temporal_patch_size": 2,
        }
    )
    video = (t.Qwen3VLVideoProcessor if is_3 else t.Qwen2VLVideoProcessor)(patch_size=sizes["patch_size"])
    template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    of_family = {"qwen2_vl": t.Qwen2VLProcessor, "qwen2_5_vl": t.Qwen2_5_VLProcessor, "qwen3_vl": t.Qwen3VLProcessor}[
        family
    ]
    processor = of_family(t.Qwen2VLImageProcessor(**sizes), words, video, chat_template=template)
    shared = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "patch_size": patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    tower = {
        "qwen2_vl": {**shared, "embed_dim": 32},
        "qwen2_5_vl": {
            **shared,
            "intermediate_size": 48,
            "out_hidden_size": 32,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
        "qwen3_vl": {
            **shared,
            "intermediate_size": 48,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
    }[family]
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**TEXT, "vocab_size": len(words), "rope_parameters": rope, "head_dim": 8, "tie_word_embeddings": False}
    return (
        _config(
            real,
            {"vision_config": tower, "text_config": text, "tie_word_embeddings": False},
            {"model_type": family, **ids},
        ),
        processor,
    )


def _gemma3(real: Known | None) -> Made:
    from transformers import Gemma3ImageProcessor, Gemma3Processor

    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = tokenizer(["<start_of_turn>", "<end_of_turn>", *names.values()], "<bos>", "<eos>", **names)
    images = Gemma3ImageProcessor(**(real.preprocessor if real else {"size": {"height": 32, "width": 32}}))
    processor = Gemma3Processor(
        images, words, chat_template=GEMMA, image_seq_length=real.config["mm_tokens_per_image"] if real else 4
    )
    ids = {
        key: words.convert_tokens_to_ids(names[f"{name}_token"])
        for key, name in (("boi_token_index", "boi"), ("eoi_token_index", "eoi"), ("image_token_id", "image"))
    }
    text = {
        **TEXT,
        "vocab_size": len(words),
        "head_dim": 8,
        "sliding_window": 16,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    tiny = {
        "text_config": text,
        "vision_config": {**TOWER, "image_size": 32, "patch_size": 8, "vision_use_head": False},
        "mm_tokens_per_image": 4,
    }
    config = _config(real, tiny, {**ids, "eos_token_id": words.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])})
    return {key: value for key, value in config.items() if key != "image_token_index"}, processor


def _internvl(real: Known | None) -> Made:
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer(["<|im_start|>", "<|im_end|>", *names.values()], None, "<|im_end|>", **names)
    sizes = (
        real.preprocessor
        if real
        else {"size": {"height": 32, "width": 32}, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}
    )
    tokens = real.config["image_seq_length"] if real else 4
    video = InternVLVideoProcessor(size=sizes["size"])
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(**sizes),
        words,
        video,
        image_seq_length=tokens,
        chat_template=CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    text = {"model_type": "qwen2", **TEXT, "vocab_size": len(words)}
    tiny = {
        "vision_config": {**TOWER, "image_size": [32, 32], "patch_size": [8, 8]},
        "text_config": text,
        "image_seq_length": 4,
        "downsample_ratio": 0.5,
    }
    return _config(real, tiny, {"image_token_id": words.convert_tokens_to_ids("<IMG_CONTEXT>")}), processor


def _llava(real: Known | None) -> Made:
    from transformers import CLIPImageProcessor, LlavaProcessor

    words = tokenizer(["<image>"], "<s>", "</s>")
    images = CLIPImageProcessor(
        **(real.preprocessor if real else {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}})
    )
    patch = real.vision["patch_size"] if real else 8
    processor = LlavaProcessor(
        images,
        words,
        patch_size=patch,
        vision_feature_select_strategy="default",
        chat_template=LLAVA,
        num_additional_image_tokens=1,
    )
    tower = {"model_type": "clip_vision_model", **TOWER, "image_size": 32, "patch_size": 8}
    tiny = {
        "vision_config": tower,
        "text_config": {"model_type": "llama", **TEXT, "vocab_size": len(words)},
        "vision_feature_layer": -2,
        "image_seq_length": 16,
    }
    return _config(real, tiny, {"image_token_index": words.convert_tokens_to_ids("<image>")}), processor


def _llava_onevision(real: Known | None) -> Made:
    from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    if real:
        raise RecipeError(
            f"{real.model}: the tiles of LLaVA-OneVision's processor are not described here; give the path of its"
            " folder"
        )
    grid = [[32, 32], [32, 64], [64, 32], [64, 64], [32, 96], [96, 32]]
    words = tokenizer(["<|im_start|>", "<|im_end|>", "<image>", "<video>"], None, "<|im_end|>")
    images = LlavaOnevisionImageProcessor(size={"height": 32, "width": 32}, image_grid_pinpoints=grid)
    video = LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32})
    template = CHATML.replace("IMAGE", "<image>\n")
    processor = LlavaOnevisionProcessor(
        images, words, video, num_image_tokens=16, vision_feature_select_strategy="full", chat_template=template
    )
    tower = {"model_type": "siglip_vision_model", **TOWER, "image_size": 32, "patch_size": 8, "vision_use_head": False}
    ids = {
        "image_token_index": words.convert_tokens_to_ids("<image>"),
        "video_token_index": words.convert_tokens_to_ids("<video>"),
    }
    tiny = {
        "vision_config": tower,
        "text_config": {"model_type": "qwen2", **TEXT, "vocab_size": len(words)},
        "image_grid_pinpoints": grid,
        "vision_feature_layer": -1,
    }
    return _config(None, tiny, ids), processor


def _idefics(family: str, real: Known | None) -> Made:
    import transformers as t

    rows = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    names = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "end_of_utterance_token": "<end_of_utterance>",
        "global_image_token": "<global-img>",
    }
    words = tokenizer(
        ["<|im_start|>", *names.values(), *rows],
        "<|im_start|>",
        "<end_of_utterance>",
        **(names if family == "smolvlm" else {}),
    )
    sizes = real.preprocessor if real else {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    tokens = (real.vision["image_size"] // real.vision["patch_size"] // real.config["scale_factor"]) ** 2 if real else 4
    if family == "smolvlm":
        side = sizes["max_image_size"]
        video = t.SmolVLMVideoProcessor(size=side, video_sampling={"fps": 1, "max_frames": 4, "video_size": side})
        processor: Any = t.SmolVLMProcessor(
            t.SmolVLMImageProcessor(**sizes), words, video, image_seq_len=tokens, chat_template=IDEFICS
        )
    else:
        processor = t.Idefics3Processor(
            t.Idefics3ImageProcessor(**sizes), words, image_seq_len=tokens, chat_template=IDEFICS
        )
    text = {"model_type": "llama", **TEXT, "vocab_size": len(words), "pad_token_id": words.pad_token_id}
    tiny = {"vision_config": {**TOWER, "image_size": 32, "patch_size": 8}, "text_config": text, "scale_factor": 2}
    return (
        _config(
            real, tiny, {"image_token_id": words.convert_tokens_to_ids("<image>"), "pad_token_id": words.pad_token_id}
        ),
        processor,
    )


def _paligemma(real: Known | None) -> Made:
    from transformers import PaliGemmaProcessor, SiglipImageProcessor

    words = tokenizer(["<image>"], "<bos>", "<eos>", image_token="<image>")
    images = SiglipImageProcessor(**(real.preprocessor if real else {"size": {"height": 32, "width": 32}}))
    images.image_seq_length = (real.vision["image_size"] // real.vision["patch_size"]) ** 2 if real else 16
    processor = PaliGemmaProcessor(
        images, words
    )  # which adds <loc> and <seg>; the published ones have no chat template
    tower = {
        "model_type": "siglip_vision_model",
        **TOWER,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 32,
        "vision_use_head": False,
    }
    text = {"model_type": "gemma", **TEXT, "vocab_size": len(words), "head_dim": 8}
    ids = {"image_token_index": words.convert_tokens_to_ids("<image>"), "eos_token_id": words.eos_token_id}
    return _config(real, {"text_config": text, "vision_config": tower, "projection_dim": 32}, ids), processor


def _mistral3(real: Known | None) -> Made:
    from transformers import PixtralImageProcessor, PixtralProcessor

    words = tokenizer(["[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"], "<s>", "</s>")
    patch = real.vision["patch_size"] if real else 8
    images = PixtralImageProcessor(patch_size=patch, **(real.preprocessor if real else {"size": {"longest_edge": 64}}))
    processor = PixtralProcessor(images, words, patch_size=patch, spatial_merge_size=2, chat_template=MISTRAL)
    tower = {"model_type": "pixtral", **TOWER, "head_dim": 16, "image_size": 64, "patch_size": 8}
    text = {"model_type": "mistral", **TEXT, "vocab_size": len(words), "head_dim": 8, "sliding_window": None}
    tiny = {"text_config": text, "vision_config": tower, "spatial_merge_size": 2, "vision_feature_layer": -1}
    return _config(real, tiny, {"image_token_index": words.convert_tokens_to_ids("[IMG]")}), processor


FAMILIES: dict[str, Callable[[Known | None], Made]] = {
    "qwen2_vl": lambda real: _qwen("qwen2_vl", real),
    "qwen2_5_vl": lambda real: _qwen("qwen2_5_vl", real),
    "qwen3_vl": lambda real: _qwen("qwen3_vl", real),
    "gemma3": _gemma3,
    "internvl": _internvl,
    "llava": _llava,
    "llava_onevision": _llava_onevision,
    "idefics3": lambda real: _idefics("idefics3", real),
    "smolvlm": lambda real: _idefics("smolvlm", real),
    "paligemma": _paligemma,
    "mistral3": _mistral3,
}
