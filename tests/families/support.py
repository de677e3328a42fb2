"""The table of docs/families.md: every type of model that transformers lists for images and text, and what medvlm does
with it.

`python -m tests.families.support` writes it; test_support.py fails if it differs. What stands in the table is read off
the families, their tiny models and transformers; the reasons in LEFT_OUT are checked as far as a program can.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from medvlm.core.config import kinds
from medvlm.core.families import family_of
from medvlm.preflight.rehearsal.ready import make_config
from tests.families.variants import VARIANTS, make_variant

PAGE = Path(__file__).parents[2] / "docs/families.md"
BEGIN, END = "<!-- written by tests/families/support.py -->", "<!-- end -->"

MODELS = {
    "florence2": "Florence-2 (`florence-community`)",
    "gemma3": "Gemma 3, MedGemma 1 and 1.5",
    "gemma4": "Gemma 4",
    "glm46v": "GLM-4.6V and 4.6V-Flash",
    "glm4v": "GLM-4.1V",
    "glm4v_moe": "GLM-4.5V",
    "idefics3": "Idefics3",
    "internvl": "InternVL 3 and 3.5 (`-HF`)",
    "lfm2_vl": "LFM2-VL, LFM2.5-VL",
    "lfm3_vl": "LFM3-VL",
    "llava": "LLaVA 1.5",
    "lighton_ocr": "LightOnOCR 1 and 2",
    "llava_next": "LLaVA-NeXT (1.6)",
    "llava_onevision": "LLaVA-OneVision",
    "mistral3": "Mistral Small 3.1 and 3.2, Mistral Small 4",
    "paligemma": "PaliGemma 1 and 2",
    "qwen2_5_vl": "Qwen2.5-VL, Lingshu",
    "qwen2_vl": "Qwen2-VL",
    "qwen3_5": "Qwen3.5",
    "qwen3_5_moe": "Qwen3.5 with experts",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_moe": "Qwen3-VL with experts",
    "smolvlm": "SmolVLM 1 and 2",
    "video_llama_3": "VideoLLaMA 3",
}
"""Family -> published models."""
TITLES = {
    "internvl3_5": "InternVL 3.5",
    "internvl3_5_moe": "InternVL 3.5 with experts",
    "internvl3_5_gpt_oss": "InternVL 3.5 with GPT-OSS",
    "mistral_small_4": "Mistral Small 4",
    "glm46v_flash": "GLM-4.6V-Flash",
    "gemma4_26b": "Gemma 4 with experts and whole pictures",
}

SPLIT = "does not take features that were computed before (`mm_encoder_outputs`)"
SEQ2SEQ = "encoder and decoder"
NO_PROCESSOR = "transformers names no processor for it"
UNSCALED = "its class leaves out the scale of the logits that its language model has, so what is right is not known"
WORDS = "pictures are words of its vocabulary, not features"
LEFT_OUT = {
    "apertus1p5": "not tried",
    "aria": "not tried",
    "aya_vision": UNSCALED,
    "blip": f"{SPLIT}, no chat template",
    "blip-2": "no chat template; not tried",
    "chameleon": WORDS,
    "cohere2_vision": UNSCALED,
    "cohere_compass": "not tried",
    "cosmos3_edge": "not tried",
    "cosmos3_omni": f"{NO_PROCESSOR}",
    "deepseek_ocr2": "for reading documents; not tried",
    "deepseek_vl": "not tried",
    "deepseek_vl_hybrid": "not tried",
    "diffusion_gemma": "writes by diffusion over blocks, not word by word",
    "dots3_note": "not tried",
    "emu3": WORDS,
    "ernie4_5_vl_moe": "not tried",
    "evolla": f"for proteins; {SPLIT}",
    "exaone4_5": "not tried",
    "fast_vlm": NO_PROCESSOR,
    "fuyu": "has no tower: patches enter the language model; not tried",
    "gemma3n": "not tried",
    "gemma4_unified": "has no tower: patches enter the language model; not tried",
    "git": f"{SPLIT}, no chat template",
    "glm5_next": "not tried",
    "glm_ocr": NO_PROCESSOR,
    "glmga": NO_PROCESSOR,
    "got_ocr2": "for reading documents; not tried",
    "granite4_vision": "not tried",
    "granite_docling": "for reading documents; not tried",
    "hunyuan_vl": "for reading documents; not tried",
    "hy_v4_vl": "not tried",
    "hyperclovax_vision_v2": "not tried",
    "idefics": SPLIT,
    "idefics2": "not tried",
    "inkling2": "not tried",
    "inkling2_loop": "not tried",
    "inkling_mm_model": "not tried",
    "instructblip": "its features depend on the question too (Q-Former)",
    "instructblipvideo": "its features depend on the question too (Q-Former)",
    "janus": "not tried",
    "kimi_k25": "not tried",
    "kosmos-2": f"{SPLIT}; {NO_PROCESSOR}",
    "kosmos-2.5": f"{SPLIT}; {NO_PROCESSOR}",
    "llama4": "not tried",
    "llava_next_video": "not tried",
    "minicpm_ocr": "for reading documents; not tried",
    "minicpmv4_6": "not tried",
    "minicpmv4_7": "not tried",
    "minimax_m3_vl": "not tried",
    "mistral4": f"reads text only; its models for images are `mistral3`; {SPLIT}",
    "mistral_large4": "not tried",
    "mllama": f"reads pictures by cross-attention; {SPLIT}",
    "molmo2": "not tried",
    "muse_glimmer": "not tried",
    "muse_spark": "not tried",
    "nemotron_h_omni": "not tried",
    "ovis2": "not tried",
    "paddleocr_vl": "for reading documents; not tried",
    "perception_lm": "not tried",
    "pi0": f"for robots; {SPLIT}",
    "pix2struct": f"{SEQ2SEQ}; {SPLIT}",
    "pp_chart2table": "for reading documents; not tried",
    "pp_formulanet": f"{SEQ2SEQ}; {SPLIT}",
    "qianfan_ocr": "for reading documents; not tried",
    "qwen2_5_omni_thinker": NO_PROCESSOR,
    "qwen3_omni_moe_thinker": NO_PROCESSOR,
    "qwen4_exp": "not tried",
    "shieldgemma2": "a classifier over Gemma 3",
    "step3p7": "not tried",
    "t5gemma2": f"{SEQ2SEQ}; {SPLIT}",
    "udop": f"{SEQ2SEQ}; {SPLIT}",
    "unlimited_ocr": "for reading documents; not tried",
    "video_llava": "not tried",
    "vipllava": "a plug-in of the tests shows it: tests/plugins/mylab/families/vipllava.py",
    "vision-encoder-decoder": f"{SEQ2SEQ}; {SPLIT}",
}
"""Type -> why medvlm does not cover it."""


@cache
def list_types() -> dict[str, str]:
    """Type -> name of its class, as transformers lists them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return dict(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def takes_features(type_: str) -> bool:
    import transformers

    return "mm_encoder_outputs" in inspect.signature(getattr(transformers, list_types()[type_]).forward).parameters


def make_table() -> str:
    covered, left = kinds("families"), [t for t in sorted(list_types()) if t not in kinds("families")]
    rows = [
        "| `model_type` | models | texts in a row | layers beside attention | boxes | words barred |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_describe(name) for name in sorted(covered)),
        "",
        "These models differ from the others of their family. Their logits, gradients and answers are compared too:",
        "",
        "| model | family | language model | layers beside attention |",
        "| --- | --- | --- | --- |",
        *(_describe_variant(name) for name in VARIANTS),
        "",
        f"{len(left)} of transformers' {len(list_types())} types are not covered:",
        "",
        "| `model_type` | why |",
        "| --- | --- |",
        *(f"| `{name}` | {LEFT_OUT[name]} |" for name in left),
    ]
    return "\n".join(rows)


def _describe(name: str) -> str:
    family, (config, processor) = family_of(name), make_config(name)
    rows = "several; answers share their prompt" if family.shares_rows else "one answer and its prompt"
    rows = "one picture and question; answers share it" if family.has_encoder else rows
    cells = (f"`{name}`", MODELS[name], rows, ", ".join(_list_layers(config)) or "none", f"`{family.codec}`")
    return f"| {' | '.join(cells)} | {_list_barred(config, processor)} |"


def _describe_variant(name: str) -> str:
    config, _ = make_variant(name)
    layers = ", ".join(_list_layers(config)) or "none"
    return f"| {TITLES[name]} | `{VARIANTS[name][0]}` | `{config.get_text_config().model_type}` | {layers} |"


def _list_layers(config: Any) -> Iterator[str]:
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    names = [name for name, _ in model.named_parameters()]
    types = set(getattr(config.get_text_config(), "layer_types", None) or ())
    told = {
        "linear_attention": "gated delta-net",
        "conv": "short convolutions",
        "sliding_attention": "sliding windows",
    }
    yield from (words for key, words in told.items() if key in types)
    if any(".experts." in name for name in names):
        yield "experts"
    if any("per_layer" in name for name in names):
        yield "embeddings per layer"
    if any("deepstack" in name for name in names):
        yield "DeepStack"


def _list_barred(config: Any, processor: Any) -> str:
    import tempfile

    from medvlm.data.processor import Processor

    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        made = Processor(folder)
    words = [made.tokenizer.convert_ids_to_tokens(i) for i in made.barred_ids]
    numbered = [w for w in words if any(c.isdigit() for c in w)]
    plain = [w for w in words if w not in numbered]
    return " ".join(f"`{w}`".replace("|", "\\|") for w in [*plain, *numbered[:1]]) + (" …" if numbered[1:] else "")


def replace_table(page: str, table: str) -> str:
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(replace_table(PAGE.read_text(), make_table()))
    sys.exit(0)
