"""Compares contrastive training with open_clip: samples per second and peak memory, on two CPU cores.

    python benchmarks/contrastive.py --peers DIR --python ENV/bin/python

Both train one CLIP in full (a ViT of 96 px with patches of 16 px and a text tower, each 256 wide with 6 layers) from
the same weights, on the same 2,048 radiographs with captions in JPEG tars, 64 a step. The features of both are compared
first, and must be equal to 1e-5. open_clip pads captions to 77 tokens and crops at least 90 % of an image at random;
medvlm pads them to the longest of a batch and resizes whole images, since a crop can make a report wrong.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peers import compare, import_peers, make_card, parse_arguments, run_peer, train, write_recipe

WIDTH, LAYERS, HEADS, SIDE, PATCH, TOKENS = 256, 6, 4, 96, 16, 77
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
TEXTS = ["Chest radiograph showing a small mass in the left upper zone.", "No  pneumothorax; follow-up ADVISED, 2 cm."]

SAVE = """
import json, pathlib, sys, torch, open_clip
from safetensors.torch import save_file
folder, texts = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
open_clip.add_model_config(folder / "open_clip.json")
torch.manual_seed(0)
model = open_clip.create_model("open_clip").eval()
tokenizer = open_clip.get_tokenizer("open_clip")
ids = tokenizer(texts)
pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    found = {"ids": ids, "pixels": pixels, "images": model.encode_image(pixels), "texts": model.encode_text(ids)}
save_file({k: v.contiguous() for k, v in found.items()}, folder / "reference.safetensors")
save_file({k: v.clone().contiguous() for k, v in model.state_dict().items()}, folder / "open_clip.safetensors")
(folder / "vocab.json").write_text(json.dumps(tokenizer.encoder))
merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
(folder / "merges.txt").write_text("#version: 0.2\\n" + "\\n".join(" ".join(pair) for pair in merges))
"""
"""Run by the Python of the peer: writes its weights, its words, and features of two images and texts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments = parse_arguments(parser, pairs=5, steps=64)
    if not arguments.python:
        parser.error("--python is needed: the weights of both are made by open_clip")
    with tempfile.TemporaryDirectory() as temporary:
        folder, made = Path(temporary), Path(temporary) / "peers"
        import_peers(arguments.peers, made)
        write_samples(folder, made)
        convert(folder, arguments.python)
        recipe = write_recipe(folder, make_recipe(arguments.steps), make_card("made", {
            "kind": "webdataset", "media": {"film": ["jpg"]}, "report": "txt",
        }))  # fmt: skip
        peer = partial(
            run_peer, arguments.python, arguments.peers / "open_clip_contrastive.py", ["fp32", "clip", "1"],
            arguments.threads, PEERS_DIR=str(made),
        )  # fmt: skip
        compare("contrastive", arguments.pairs, partial(train, recipe, arguments.threads), peer)


def write_samples(folder: Path, made: Path) -> None:
    """The radiographs and captions of the peers as tars, once, for both."""
    import numpy as np
    from common import add, caption, draw, jpeg

    rng = np.random.default_rng(0)
    tars = made / "data" / "clip"
    tars.mkdir(parents=True)
    for shard in range(8):
        with tarfile.open(tars / f"{shard:05d}.tar", "w") as tar:
            for number in range(256):
                image, label = draw(rng, 160)
                add(tar, f"{shard:03d}{number:05d}.jpg", jpeg(image))
                add(tar, f"{shard:03d}{number:05d}.txt", caption(rng, label).encode())
    (folder / "archive").symlink_to(tars)


def convert(folder: Path, python: Path) -> None:
    """Writes the weights of open_clip's model as towers of transformers, and compares the features of both.

    Raises SystemExit if they differ by more than 1e-5."""
    from safetensors.torch import load_file, save_file
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

    from medvlm.core.weights import open_tokenizer

    (folder / "open_clip.json").write_text(json.dumps({
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": SIDE, "layers": LAYERS, "width": WIDTH, "head_width": WIDTH // HEADS,
                       "patch_size": PATCH},
        "text_cfg": {"context_length": TOKENS, "vocab_size": 49408, "width": WIDTH, "heads": HEADS, "layers": LAYERS},
    }))  # fmt: skip
    subprocess.run([python, "-c", SAVE, folder, json.dumps(TEXTS)], check=True)
    stored, reference = load_file(folder / "open_clip.safetensors"), load_file(folder / "reference.safetensors")
    sizes = {
        "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS, "hidden_act": "gelu",
        "num_attention_heads": HEADS, "projection_dim": WIDTH,
    }  # fmt: skip
    vision = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=PATCH)).eval()
    text = CLIPTextModel(
        CLIPTextConfig(**sizes, vocab_size=49408, max_position_embeddings=TOKENS, bos_token_id=49406,
                       eos_token_id=49407, pad_token_id=49407)
    ).eval()  # fmt: skip
    fill(vision, rename_vision(stored))
    fill(text, rename_text(stored))
    heads = {
        "heads.film.weight": stored["visual.proj"].T.contiguous(),
        "heads.text.weight": stored["text_projection"].T.contiguous(),
        "heads.scale.log_scale": stored["logit_scale"].reshape(1),
    }
    vision.save_pretrained(folder / "vision")
    text.save_pretrained(folder / "text")
    (folder / "heads").mkdir()
    save_file(heads, folder / "heads" / "heads.safetensors")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folder / name, folder / "text" / name)
    words = {"bos_token": "<start_of_text>", **dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<end_of_text>")}
    (folder / "text" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **words}))
    tokenizer = open_tokenizer(str(folder / "text"), "text")
    for written, ids in zip(TEXTS, reference["ids"].tolist(), strict=True):
        own = tokenizer(written)["input_ids"]
        assert own == [i for i in ids if i], (written, own, ids)
    with torch.no_grad():
        images = vision(reference["pixels"]).pooler_output @ heads["heads.film.weight"].T
        texts = text(reference["ids"].masked_fill(reference["ids"] == 0, 49407)).pooler_output
        found = {"images": images, "texts": texts @ heads["heads.text.weight"].T}
    off = max(float((found[name] - reference[name]).abs().max()) for name in found)
    print(json.dumps({"largest difference of features": off}), flush=True)
    if not off <= 1e-5:
        raise SystemExit("the converted model has other features than the one of open_clip")


def rename_vision(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    plain = {
        "class_embedding": "embeddings.class_embedding", "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight", "ln_pre.weight": "pre_layrnorm.weight",
        "ln_pre.bias": "pre_layrnorm.bias", "ln_post.weight": "post_layernorm.weight",
        "ln_post.bias": "post_layernorm.bias",
    }  # fmt: skip
    return {**{new: stored[f"visual.{old}"] for old, new in plain.items()}, **rename_layers(stored, "visual.")}


def rename_text(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    plain = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight", "ln_final.bias": "final_layer_norm.bias",
    }  # fmt: skip
    return {**{new: stored[old] for old, new in plain.items()}, **rename_layers(stored, "")}


def rename_layers(stored: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    parts = {
        "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }  # fmt: skip
    found: dict[str, torch.Tensor] = {}
    for layer in range(LAYERS):
        before, after = f"{prefix}transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            found |= {f"{after}.{new}.{kind}": stored[f"{before}.{old}.{kind}"] for old, new in parts.items()}
            for name, part in zip("qkv", stored[f"{before}.attn.in_proj_{kind}"].chunk(3), strict=True):
                found[f"{after}.self_attn.{name}_proj.{kind}"] = part
    return found


def fill(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """transformers keeps some towers below a name of their own."""
    (first, *_) = model.state_dict()
    front = first.partition(".")[0] + "." if first.partition(".")[0] in ("vision_model", "text_model") else ""
    model.load_state_dict({f"{front}{name}": tensor for name, tensor in weights.items()})


def make_recipe(steps: int) -> dict[str, Any]:
    preprocess = {"size": [SIDE, SIDE], "mean": MEAN, "std": STD}
    return {
        "name": "contrastive", "seed": 0,
        "model": {"encoders": {"film": {"kind": "transformers", "model": "vision", "preprocess": preprocess}}},
        "data": {"made": {"card": "card.yaml", "root": "archive"}},
        "stages": [{
            "name": "pair", "kind": "contrastive", "mix": {"made": 1}, "trains": ["encoders", "text", "heads"],
            "text": {"kind": "transformers", "model": "text", "max_tokens": TOKENS}, "loss": {"kind": "clip"},
            "width": WIDTH, "from": {"heads": "./heads"}, "steps": steps, "batch": 64, "save_every": 0,
            "optim": {"lr": 5e-4, "weight_decay": 0.1, "schedule": "constant", "warmup": 0},
        }],
    }  # fmt: skip


if __name__ == "__main__":
    main()
