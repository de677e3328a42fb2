"""Exports that plain transformers must load. Each is proven in a process without medvlm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.errors import RecipeError, ShapeError
from medvlm.core.run import RunFolder
from medvlm.export.language import rename_token
from medvlm.export.proof import parity
from medvlm.export.proof import reference as references
from medvlm.export.run import ExportReceipt, export
from medvlm.export.targets import idefics3, llava
from medvlm.recipe.targets import resolve

from .conftest import prove_here, recipe_of, tiny_tokenizer, trained_of, with_film

CLIP = {"model_type": "clip_vision_model"}
COMPOSITIONS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "siglip-untied": ({}, {"tie_word_embeddings": False}, {}),
    "dinov2-tied-layer-2": ({"model_type": "dinov2"}, {"tie_word_embeddings": True}, {"layer": -2}),
    "siglip-llama-tied": ({}, {"model_type": "llama", "tie_word_embeddings": True}, {}),
    "clip-untied-crop": (
        CLIP,
        {"tie_word_embeddings": False},
        {
            "layer": -2,
            "preprocess": {"size": [32, 32], "fit": "crop", "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
        },
    ),
}


def make(tmp: Path, run: RunFolder, name: str) -> ExportReceipt:
    tower, language, rest = COMPOSITIONS[name]
    return export(run, tmp / name, trained_of(with_film(recipe_of(tower, language), rest)), "stock")


@pytest.fixture(scope="module", params=list(COMPOSITIONS))
def receipt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, run: RunFolder) -> ExportReceipt:
    """One is loaded in a separate process, which is slow; the others in this process."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "siglip-untied":
            patch.setattr(parity, "prove", prove_here)
        return make(tmp_path_factory.mktemp("exports"), run, request.param)


def test_logits_and_answers_are_those_of_the_trained_model(receipt: ExportReceipt) -> None:
    proof = json.loads((receipt.folder / "medvlm" / "parity.json").read_text())
    assert proof["passed"] and proof["class"] == "LlavaForConditionalGeneration"
    assert proof["max_abs_logit_diff"] <= 1e-4
    assert [case["images"] for case in proof["cases"]] == [1, 1, 1, 0, 2]
    assert all(case["same_ids"] and case["text"] == case["expected"] for case in proof["cases"])
    assert proof["image_effect"] > 100 * proof["tolerance"], (
        "the proof must see a wrong tower: blanking the image has to change the logits"
    )


def test_the_config_says_what_the_tower_is(receipt: ExportReceipt) -> None:
    config = json.loads((receipt.folder / "config.json").read_text())
    processor = json.loads((receipt.folder / "processor_config.json").read_text())
    has_class_token = config["vision_config"]["model_type"] != "siglip_vision_model"
    assert (
        config["vision_feature_select_strategy"]
        == processor["vision_feature_select_strategy"]
        == ("default" if has_class_token else "full")
    )
    assert processor["num_additional_image_tokens"] == (1 if has_class_token else 0)
    assert processor["patch_size"] == 8 and config["image_seq_length"] == 16
    assert config["text_config"]["architectures"][0].endswith("ForCausalLM")
    assert config["tie_word_embeddings"] == config["text_config"]["tie_word_embeddings"]
    assert json.loads((receipt.folder / "generation_config.json").read_text())["do_sample"] is False
    for name in (
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "README.md",
    ):
        assert (receipt.folder / name).is_file(), name


def test_a_grey_image_reaches_the_model_as_three_equal_channels(receipt: ExportReceipt) -> None:
    """Input from a user: a picture of mode L or RGB of any size, opened by Pillow."""
    import numpy as np
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(receipt.folder)
    grey = Image.fromarray(references.make_images()[0])
    pixels = processor([grey, grey.convert("RGB")], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, 32, 32)
    assert torch.equal(pixels[0], pixels[1])
    assert np.ptp(pixels.numpy()) > 1


def test_answers_do_not_change_in_a_batch(receipt: ExportReceipt) -> None:
    """Prompts of different lengths are padded on the left, so that each continues at its end."""
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = (
        AutoModelForImageTextToText.from_pretrained(receipt.folder),
        AutoProcessor.from_pretrained(receipt.folder),
    )
    images = [Image.fromarray(array) for array in references.make_images()[1:]]
    prompts = [
        [{"role": "user", "content": [{"type": "image", "image": i}, {"type": "text", "text": t}]}]
        for i, t in zip(images, ("How many?", references.QUESTIONS[1]), strict=True)
    ]
    how = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    together = processor.apply_chat_template(prompts, processor_kwargs={"padding": True}, **how)
    answers = model.generate(**together, max_new_tokens=6)[:, together["input_ids"].shape[1] :]
    for prompt, answer in zip(prompts, answers, strict=True):
        alone = processor.apply_chat_template(prompt, **how)
        assert model.generate(**alone, max_new_tokens=6)[0, alone["input_ids"].shape[1] :].tolist() == answer.tolist()


def test_a_perturbed_weight_fails_the_proof(tmp_path: Path) -> None:
    """A control: the proof must notice a changed weight."""
    from safetensors.torch import load_file, save_file

    tower, language, _ = COMPOSITIONS["siglip-untied"]
    trained = trained_of(recipe_of(tower, language))
    reference, folder = tmp_path / "reference", tmp_path / "model"
    reference.mkdir()
    llava.write_reference(trained, reference)
    llava.write(trained, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if "vision_tower" in n and "patch_embedding" in n and n.endswith("weight"))
    weights[name] = weights[name] * 1.05
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(parity.ParityError, match="max_abs_logit_diff") as failure:
        prove_here(folder, reference)
    assert failure.value.record is not None and failure.value.record["max_abs_logit_diff"] > 1e-4


def test_a_folder_that_does_not_load_is_left_as_failed(
    tmp_path: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise parity.ParityError("logits differ by 3", {"max_abs_logit_diff": 3.0})

    monkeypatch.setattr(parity, "prove", fail)
    with pytest.raises(parity.ParityError, match=r"logits differ by 3\n.*out\.failed"):
        export(run, tmp_path / "out", trained_of(recipe_of({}, {})), "stock")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.failed"]
    assert json.loads((tmp_path / "out.failed" / "medvlm" / "parity.json").read_text())["passed"] is False


def test_every_tensor_is_accounted_for(tmp_path: Path, no_children: None) -> None:
    trained = trained_of(recipe_of({}, {"tie_word_embeddings": True}))
    model: Any = trained.model
    trainable = {n for n, _ in model.named_parameters() if ".lora_" in n}
    folded = {n.partition(".lora_")[0] for n in trainable}
    bases = {n.replace(".base_layer.", ".") for n in model.state_dict() if ".lora_" not in n}
    audit = llava.write(trained, tmp_path)
    assert set(audit.adapters) == trainable
    assert len(audit.merged) == len(folded)
    assert audit.replaced == [f"model.multi_modal_projector.linear_{i}.{p}" for i in (1, 2) for p in ("weight", "bias")]
    assert len(audit.merged) + len(audit.replaced) + len(audit.copied) == len(bases)
    assert audit.count()["missing"] == 0
    assert audit.shared == {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    # SigLIP's pooling has no use in LLaVA: it is kept, and said.
    head = {n for n in bases if ".tower.head." in n}
    assert head and {n for n in audit.unused if ".head." in n} == {
        n.replace("encoders.film.tower", "model.vision_tower") for n in head
    }


def test_a_model_with_a_tensor_too_many_is_refused(tmp_path: Path, no_children: None) -> None:
    trained = trained_of(recipe_of({}, {}))
    model: Any = trained.model
    model.connectors["film"].linear_3 = torch.nn.Linear(2, 2)
    with pytest.raises(ShapeError, match=r"connectors\.film\.linear_3\.bias"):
        llava.write(trained, tmp_path)


def test_a_language_model_that_caps_its_logits_is_refused(tmp_path: Path, no_children: None) -> None:
    """Gemma 2 computes 30 * tanh(logits / 30); LLaVA would skip this and silently give other answers."""
    language = {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 0.05, "tie_word_embeddings": True}
    trained = trained_of(recipe_of({}, language))
    with pytest.raises(ShapeError, match="changes its logits after the linear head"):
        llava.write(trained, tmp_path)


@pytest.mark.parametrize(
    ("tower", "encoders", "reason"),
    [
        ({"model_type": "vit"}, {}, "encoders.film is a vit"),
        ({}, {"connector": {"kind": "linear"}}, "connector is of kind linear"),
        ({}, {"preprocess": {"size": [32, 32], "channels": 1, "mean": [0.5], "std": [0.5]}}, "channels is 1"),
    ],
)
def test_what_no_stock_class_holds_is_refused_with_the_reason(
    tower: dict[str, Any], encoders: dict[str, Any], reason: str
) -> None:
    found = llava.reason(with_film(recipe_of(tower, {}), encoders).model, ())
    assert found is not None and reason in found


IDEFICS3 = {"connector": {"kind": "pixel_shuffle", "factor": 2, "layers": 1}, "layer": "normed"}
WORDS = {"around_image": list(idefics3.AROUND), "special_tokens": [idefics3.END]}


def in_idefics3(tower: dict[str, Any] = IDEFICS3, language: dict[str, Any] = WORDS) -> Any:
    recipe = with_film(recipe_of({}, {"tie_word_embeddings": False}), tower)
    changed = type(recipe.model.language).model_validate(
        {**recipe.model.language.model_dump(by_alias=True), **language}
    )
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"language": changed})})


@pytest.mark.slow
def test_pixel_shuffle_becomes_idefics3(tmp_path: Path, run: RunFolder) -> None:
    """The model writes the tokens around an image in training, the processor in the export; each exactly once."""
    trained = trained_of(in_idefics3())
    assert (
        trained.tokenizer.convert_tokens_to_ids(idefics3.END)
        < trained.model.language.get_input_embeddings().num_embeddings
    )
    receipt = export(run, tmp_path / "out", trained, "stock")
    assert receipt.kind == "idefics3" and receipt.parity["class"] == "Idefics3ForConditionalGeneration"
    assert (
        receipt.parity["passed"]
        and receipt.parity["max_abs_logit_diff"] <= 1e-4
        and not receipt.parity["golden_that_differ"]
    )
    assert receipt.parity["image_effect"] > 100 * receipt.parity["tolerance"]
    assert set(receipt.audit.left_out) == {"encoders.film.tower.head"} and not receipt.audit.unused
    config = json.loads((receipt.folder / "config.json").read_text())
    assert config["scale_factor"] == 2 and config["text_config"]["architectures"] == ["Qwen2ForCausalLM"]
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(receipt.folder)
    assert len(processor.tokenizer) == len(trained.tokenizer), (
        "no token was added behind the last row of the embeddings"
    )


def test_a_token_gets_another_word_and_keeps_its_number(no_children: None) -> None:
    """Images may be a reserved token of the language model's vocabulary; Idefics3's processor always uses the same
    token."""
    tokenizer = tiny_tokenizer()
    number, chat = (
        tokenizer.image_token_id,
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}],
    )
    other = rename_token(rename_token(tokenizer, "<image>", "<|image_pad|>"), "<|image_pad|>", "<image>")
    changed = rename_token(tokenizer, "<image>", "<|image_pad|>")
    assert changed.convert_tokens_to_ids("<|image_pad|>") == number and "<image>" not in changed.get_vocab()
    assert "<|image_pad|>How many?" in changed.apply_chat_template(chat, tokenize=False)
    assert other.get_vocab() == tokenizer.get_vocab() and other.apply_chat_template(
        chat, tokenize=False
    ) == tokenizer.apply_chat_template(chat, tokenize=False)
    with pytest.raises(ShapeError, match="already has a token </s>"):
        rename_token(tokenizer, "<image>", "</s>")


def test_adapters_over_idefics3(tmp_path: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "prove", prove_here)
    recipe = in_idefics3()
    with pytest.raises(ShapeError, match=r"4 adapters have no layer in the stock class: encoders\.film\.tower\.head\."):
        export(run, tmp_path / "out", trained_of(recipe), "adapter")
    (stage,) = recipe.stages
    of_language = stage.model_copy(update={"lora": stage.lora.model_copy(update={"targets": ("language",)})})
    receipt = export(run, tmp_path / "out", trained_of(recipe.model_copy(update={"stages": (of_language,)})), "adapter")
    assert (
        receipt.parity["class"].endswith("over Idefics3ForConditionalGeneration")
        and receipt.parity["adapter_effect"] > 0.01
    )


@pytest.mark.parametrize(
    ("tower", "language", "reason"),
    [
        (
            {**IDEFICS3, "connector": {"kind": "pixel_shuffle"}},
            WORDS,
            "connector is {kind: pixel_shuffle, factor: 2, layers: 2}, and Idefics3 needs",
        ),
        ({**IDEFICS3, "layer": -1}, WORDS, "set layer: normed"),
        (
            IDEFICS3,
            {},
            (
                "set around_image: ['<fake_token_around_image><global-img>', '<fake_token_around_image>'] and"
                " special_tokens: [<end_of_utterance>]"
            ),
        ),
        ({**IDEFICS3, "preprocess": {"size": [32, 32], "fit": "crop"}}, WORDS, "needs squares with fit: squash"),
    ],
)
def test_what_idefics3_needs_is_said(tower: dict[str, Any], language: dict[str, Any], reason: str) -> None:
    recipe = in_idefics3(tower, language)
    assert reason in resolve("stock", recipe.model, recipe.stages)[2]


def test_several_layers_of_a_tower_go_into_llava(
    tmp_path: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "prove", prove_here)
    receipt = export(run, tmp_path / "out", trained_of(with_film(recipe_of(CLIP, {}), {"layer": [-2, -1]})), "stock")
    assert receipt.parity["passed"] and json.loads((receipt.folder / "config.json").read_text())[
        "vision_feature_layer"
    ] == [-2, -1]


def test_two_encoders_are_refused_and_the_remedy_is_said(tmp_path: Path, run: RunFolder, no_children: None) -> None:
    second = {"kind": "transformers", "config": {"model_type": "clip_vision_model"}, "connector": {"kind": "mlp"}}
    recipe = recipe_of({}, {}, ct=second)
    trained = trained_of(recipe_of({}, {}))
    with pytest.raises(RecipeError, match=r"2 encoders \(film, ct\).*export\.target: custom"):
        export(run, tmp_path / "out", replace(trained, recipe=recipe), "stock")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_export_is_not_touched(tmp_path: Path, run: RunFolder, no_children: None) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RecipeError, match="is not an export of medvlm"):
        export(run, tmp_path, trained_of(recipe_of({}, {})), "stock")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
