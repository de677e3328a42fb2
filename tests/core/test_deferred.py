"""Weights that stay in their files are, once they are read, those that are read at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from medvlm.backbones._language import _add_rows
from medvlm.core.config import component, kinds
from medvlm.core.contracts import Loaded
from medvlm.core.deferred import deferring, fill, list_deferred, present, put, read, read_pieces, source_of
from medvlm.core.lora_config import Lora
from medvlm.core.published import Published, fingerprint, list_published
from medvlm.core.weights import from_pretrained, load_stock
from medvlm.models.lora import attach, merge
from medvlm.preflight.rehearsal.ready import save_random, save_tiny
from tests.families.variants import VARIANTS, make_variant

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model in bfloat16 whose head is tied to its embeddings."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    made = tmp_path_factory.mktemp("language")
    torch.manual_seed(0)
    config = Qwen2Config(**SMALL, num_key_value_heads=1, vocab_size=64, tie_word_embeddings=True)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(made)
    return made


def load(folder: Path, defers: bool, **allowed: Any) -> Any:
    from transformers import AutoModelForCausalLM

    if not defers:
        return from_pretrained(AutoModelForCausalLM, str(folder), Loaded(**allowed), "model.language")
    with deferring() as said:
        made = from_pretrained(AutoModelForCausalLM, str(folder), Loaded(**allowed), "model.language")
    made.said = said
    return made


def check_same(deferred: nn.Module, whole: nn.Module) -> None:
    """Names, values, types and ties, of parameters and buffers."""
    own, expected = deferred.state_dict(keep_vars=True), whole.state_dict(keep_vars=True)
    assert own.keys() == expected.keys()
    for name, tensor in own.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(read(tensor), expected[name]), name
    buffers = dict(whole.named_buffers())
    assert buffers.keys() == dict(deferred.named_buffers()).keys()
    for name, buffer in deferred.named_buffers():
        assert torch.equal(buffer, buffers[name]) and buffer.dtype == buffers[name].dtype, name
    names = [name for name, _ in deferred.named_parameters()]
    assert names == [name for name, _ in whole.named_parameters()]


def test_weights_stay_in_their_files_until_they_are_read(folder: Path) -> None:
    made, whole = load(folder, defers=True), load(folder, defers=False)
    assert made.said == [] and all(p.is_meta and p.dtype == torch.float32 for p in made.parameters())
    check_same(made, whole)
    assert [fingerprint(p) for p in made.parameters()] == [fingerprint(p) for p in whole.parameters()]
    table = made.get_input_embeddings().weight
    source = source_of(table)
    assert source is not None and torch.equal(source.read(3, 5).float(), whole.get_input_embeddings().weight[3:5])
    assert torch.equal(torch.cat([*read_pieces(table)]), read(table))
    fill(made)
    assert list_deferred(made) == [] and made.lm_head.weight is made.model.embed_tokens.weight
    check_same(made, whole)
    assert list_published(made).keys() == list_published(whole).keys() != set()


def test_a_model_with_deferred_weights_computes_block_by_block(folder: Path) -> None:
    made, whole = load(folder, defers=True), load(folder, defers=False)
    ids, seen = torch.arange(6)[None], []
    for layer in made.model.layers:
        layer.register_forward_hook(lambda *_: seen.append(sum(not p.is_meta for p in made.model.layers.parameters())))
    with torch.no_grad(), present(made):
        assert torch.equal(made(ids).logits, whole(ids).logits)
        assert torch.equal(made(ids).logits, whole(ids).logits), "and again"
    assert set(seen) == {len(list(made.model.layers[0].parameters()))}, "one layer at a time is in memory"
    assert len(list_deferred(made)) == len(list(made.parameters()))


def test_adapters_begin_and_merge_as_on_weights_in_memory(folder: Path) -> None:
    made, whole = load(folder, defers=True), load(folder, defers=False)
    holders = []
    for model in (made, whole):
        holder = nn.Module()
        holder.language = model
        published = Published(holder)
        attach(holder, Lora(rank=2, alpha=4, targets=("language",)), seed=3)
        factors = {name: p for name, p in holder.named_parameters() if ".lora_" in name}
        assert factors and not any(p.is_meta for p in factors.values())
        for name, factor in factors.items():
            put(factor, torch.randn(factor.shape, generator=torch.Generator().manual_seed(len(name))))
        holders.append((holder, factors, published))
    (one, own, ours), (two, expected, theirs) = holders
    assert all(torch.equal(own[name], expected[name]) for name in expected)
    assert ours.find_unchanged(one) == theirs.find_unchanged(two)
    assert merge(one) == merge(two) > 0
    check_same(made, whole)
    assert ours.find_unchanged(one) == theirs.find_unchanged(two)
    assert len(list_deferred(made)) == len(list(made.parameters())), "merged weights are still not in memory"


def test_longer_tables_and_rows_of_new_tokens_are_those_of_tables_in_memory(folder: Path) -> None:
    made, whole = load(folder, defers=True), load(folder, defers=False)
    holders = []
    for model in (made, whole):
        torch.manual_seed(1)
        _add_rows(model, 70)
        holder = nn.Module()
        holder.language, holder.new_token_ids = model, (66, 69)
        attach(holder, Lora(rank=2, targets=("language.*.q_proj",), tokens=True), seed=3)
        rows = next(p for name, p in holder.named_parameters() if "lora_rows" in name)
        assert rows.shape == (2, 16) and rows.requires_grad
        holders.append(rows.detach().clone())
        put(rows, torch.randn(rows.shape, generator=torch.Generator().manual_seed(2)))
        merge(holder)
    assert torch.equal(*holders)
    check_same(made, whole)
    table = made.get_input_embeddings().weight
    assert table.is_meta and len(table) == 70, "they are still not in memory"
    source, values = source_of(table), whole.get_input_embeddings().weight
    assert source is not None
    for start, stop in ((0, 3), (60, 67), (65, 70), (68, None)):
        assert torch.equal(source.read(start, stop), values[start:stop])


VIT = {"width": 48, "layers": 2, "heads": 2, "preprocess": {"size": [8, 16, 16], "channels": 1}}
FILM = {"preprocess": {"size": [32, 32]}}
NETS: dict[str, dict[str, Any]] = {
    "timm": {"net": "vit_tiny_patch16_224", "args": {"depth": 2, "embed_dim": 48, "num_heads": 2}, **FILM},
    "timm cnn": {"net": "resnet10t", **FILM},
    "monai": {"net": "ViT", "patch": [4, 8, 8], **VIT},
    "monai swin": {
        "net": "SwinUNETR", "args": {"feature_size": 12}, "preprocess": {"size": [32, 32, 32], "channels": 1},
    },
    "vit3d": {"patch": [4, 8, 8], "positions": [4, 4, 4], **VIT},
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_networks_of_other_libraries_stay_in_their_files(name: str, tmp_path: Path) -> None:
    kind = component("encoders", name.partition(" ")[0])
    config = kind.Config.model_validate({"kind": name.partition(" ")[0], **NETS[name]})
    torch.manual_seed(0)
    stored = {f"net.{key}": tensor + 0.01 for key, tensor in kind.build(config).tower.state_dict().items()}
    save_file(stored, tmp_path / "net.safetensors")
    config = config.model_copy(update={"weights": str(tmp_path / "net.safetensors"), "prefix": "net."})
    with deferring() as said:
        made = kind.build(config)
    whole = kind.build(config)
    assert said == [] and len(list_deferred(made)) == len(list(whole.parameters()))
    check_same(made, whole)
    pixels = torch.randn(1, *whole.input_shape)
    with torch.no_grad(), present(made.eval()):
        assert torch.equal(made(pixels).patches, whole.eval()(pixels).patches)
    assert made.width == whole.width and made.grid == whole.grid
    fresh = config.model_copy(update={"allow_missing": ("nothing",)})
    with deferring():
        made = kind.build(fresh)
    assert not list_deferred(made), "what may start fresh needs its values"


def test_what_has_no_place_or_no_values_in_the_files_is_read_at_once_or_refused(folder: Path, tmp_path: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    missing = next(name for name in stored if name.endswith("mlp.up_proj.weight"))
    save_file({n: t for n, t in stored.items() if n != missing}, tmp_path / "model.safetensors", {"format": "pt"})
    torch.manual_seed(5)
    made = load(tmp_path, defers=True, allow_missing=(missing,))
    torch.manual_seed(5)
    check_same(made, load(tmp_path, defers=False, allow_missing=(missing,)))
    assert made.said == [
        f"model.language is read whole by every rank: its files have no {missing} (1 keys), which starts fresh"
    ]
    # Both of two tied weights: the same values are one weight, others are two.
    head = stored["model.embed_tokens.weight"]
    for values in (head.clone(), head + 1):
        save_file({**stored, "lm_head.weight": values}, tmp_path / "model.safetensors", {"format": "pt"})
        check_same(load(tmp_path, defers=True), load(tmp_path, defers=False))


SLOW = [family for family in (*kinds("families"), *VARIANTS) if family not in ("qwen3_vl_moe", "gemma3")]


@pytest.mark.parametrize(
    "family", ["qwen3_vl_moe", "gemma3", *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)]
)
def test_every_family_is_found_in_its_files(family: str, tmp_path: Path) -> None:
    """With the names and the fused and split weights of its published form."""
    from transformers import AutoModelForImageTextToText

    save_random(*make_variant(family), tmp_path) if family in VARIANTS else save_tiny(family, tmp_path)
    with deferring() as said:
        made, found = load_stock(AutoModelForImageTextToText, str(tmp_path), "model.pretrained")
    whole, expected = load_stock(AutoModelForImageTextToText, str(tmp_path), "model.pretrained")
    assert said == [] and len(list_deferred(made)) == len(list(whole.parameters())) and found == expected
    check_same(made, whole)
