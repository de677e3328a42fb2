"""Language models and their tokenizers, from a config and from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.backbones import _language, causal
from medvlm.core.errors import CheckpointError, RecipeError, ShapeError
from medvlm.data.dialogue import Dialogue
from medvlm.data.vocabulary import IMAGE, TEMPLATE, train_tokenizer
from medvlm.recipe.load import load

TEXTS = ["Is there a nodule in the left lung?", "yes", "no", "How many clips are there? 3 or 12"] * 4
SMALL = {
    "model_type": "qwen2",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def make_scratch_config(**changes: Any) -> causal.Config:
    return causal.Config(kind="causal", config=SMALL, vocabulary=320, **changes)


def train_small(size: int) -> Any:
    return train_tokenizer(TEXTS, size, IMAGE)


def stored_model(folder: Path, template: str | None = TEMPLATE, spare: str = "<none>", rows: int = 0) -> Path:
    """A small pretrained model. spare: a reserved token of its vocabulary."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = train_tokenizer(TEXTS, 320, spare)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    Qwen2ForCausalLM(
        Qwen2Config(**{k: v for k, v in SMALL.items() if k != "model_type"}, vocab_size=rows or len(tokenizer))
    ).save_pretrained(folder)
    return folder


def test_a_tokenizer_is_trained_once_and_then_loaded(tmp_path: Path) -> None:
    first = causal.tokenizer(make_scratch_config(), train_small, tmp_path)

    def never(size: int) -> Any:
        raise AssertionError("trained a second time")

    again = causal.tokenizer(make_scratch_config(), never, tmp_path)
    assert again.get_vocab() == first.get_vocab() and again.chat_template == first.chat_template


def test_an_image_is_one_token_and_a_model_from_scratch_has_a_row_for_every_token(tmp_path: Path) -> None:
    tokenizer = causal.tokenizer(make_scratch_config(), train_small, tmp_path)
    assert (
        tokenizer(f"a{IMAGE}b", add_special_tokens=False).input_ids.count(tokenizer.convert_tokens_to_ids(IMAGE)) == 1
    )
    model: Any = causal.build(make_scratch_config(), tokenizer)
    assert model.config.vocab_size == len(tokenizer) and model.config.eos_token_id == tokenizer.eos_token_id


def test_a_pretrained_model_keeps_its_rows_and_gains_one_for_the_image_token(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = causal.Config(kind="causal", model=str(stored_model(tmp_path / "model")))
    tokenizer = causal.tokenizer(config, train_small, tmp_path / "run")
    ours: Any = causal.build(config, tokenizer).eval()
    stock: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    old = stock.config.vocab_size
    assert old <= tokenizer.convert_tokens_to_ids(IMAGE) < ours.config.vocab_size == len(tokenizer)
    ids = torch.tensor([[1, 5, 80, 200]])
    torch.testing.assert_close(ours(ids).logits[..., :old], stock(ids).logits, rtol=0, atol=1e-6)


def test_text_and_a_list_of_parts_give_the_same_prompt(tmp_path: Path) -> None:
    """Training passes texts; the processor of an exported model passes lists of parts."""
    for name, config in {
        "scratch": make_scratch_config(),
        "stored": causal.Config(kind="causal", model=str(stored_model(tmp_path / "model"))),
    }.items():
        tokenizer = causal.tokenizer(config, train_small, tmp_path / name)
        parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Is there a nodule?"}]
        as_text = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{IMAGE}{IMAGE}Is there a nodule?"}],
            tokenize=False,
            add_generation_prompt=True,
        )
        assert as_text == tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
        )
        assert as_text == f"<s><|user|>{IMAGE}{IMAGE}Is there a nodule?<|assistant|>"


@pytest.mark.parametrize(
    ("template", "prompt", "whole"),
    [
        ("vicuna", "polite answers to the user's questions. USER: Why? ASSISTANT:", " ASSISTANT: So.EOS"),
        ("llama2", "[INST] Why? [/INST]", "[INST] Why? [/INST] So. EOS"),
        ("plain", "Question: Why?\nAnswer:", "Question: Why?\nAnswer: So.EOS"),
        (
            "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}",
            "<assistant>",
            "<assistant>So.EOS",
        ),
    ],
)
def test_a_model_without_a_chat_template_gets_one_from_the_recipe(
    template: str, prompt: str, whole: str, tmp_path: Path
) -> None:
    model = str(stored_model(tmp_path / "model", template=None))
    made = causal.tokenizer(causal.Config(kind="causal", model=model, template=template), train_small, tmp_path / "run")
    again = causal.tokenizer(
        causal.Config(kind="causal", model=model, template=template), train_small, tmp_path / "run"
    )
    asked = [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
    answered = [*asked, {"role": "assistant", "content": "So."}]
    for tokenizer in (made, again):
        assert tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True).endswith(prompt)
        assert tokenizer.apply_chat_template(answered, tokenize=False).endswith(
            whole.replace("EOS", tokenizer.eos_token)
        )
    turn = Dialogue(made, made.image_token).turn("Why?", [2], "So.")
    assert turn.prompt.count(made.convert_tokens_to_ids(made.image_token)) == 2
    assert made.eos_token_id in turn.answer


@pytest.mark.parametrize(
    ("recipe", "whole"),
    [
        (
            "libra",
            "<s>The assistant specialized in comparing Chest X-ray images, identifying differences, and noting temporal"
            " changes. USER: <image>Why? ASSISTANT: So.</s>",
        ),
        ("xraygpt", "<s>###Patient: <Img><image></Img> Why? ###Doctor: So.###</s>"),
        ("merlin_report", "<image>Why?###\nSo.</s>"),
    ],
)
def test_the_templates_of_published_systems_are_those_of_their_code(recipe: str, whole: str, tmp_path: Path) -> None:
    """conv_libra_v1 of libra/conversation.py; prompt_template and end_sym of xraygpt_openi_finetune.yaml with a line of
    prompts/alignment.txt; prefix of report_generation_demo.py without its first token, as in
    radiology_report_generation.py."""
    template = load(f"systems/{recipe}.yaml").recipe.model.language.template
    made = causal.tokenizer(make_scratch_config(template=template), train_small, tmp_path / "run")
    messages = [{"role": "user", "content": "<image>Why?"}, {"role": "assistant", "content": "So."}]
    assert made.apply_chat_template(messages, tokenize=False) == whole


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("vicunna", "did you mean 'vicuna'"),
        ("chatml", "no template is called 'chatml'; expected vicuna, llama2, plain"),
        ("{% for m in messages %}{{ m['content'] }}", "is not Jinja"),
        ("{{ messages", "is not Jinja"),
    ],
)
def test_a_template_that_is_none_is_refused(template: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_scratch_config(template=template)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ eos_token }}{{ bos_token }}", "leaves out the content of messages"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "does not end with eos_token"),
        (
            "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}A:{% endif %}",
            "does not begin with the prompt",
        ),
        ("{{ raise_exception('no') }}", "model.language.template: "),
    ],
)
def test_a_template_that_would_train_wrong_tokens_is_refused(template: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        causal.tokenizer(make_scratch_config(template=template), train_small, tmp_path)


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    config = causal.Config(kind="causal", model=str(stored_model(tmp_path / "model", template=None)))
    with pytest.raises(RecipeError, match=r"has no chat template; give it one, e\.g\. template: vicuna"):
        causal.tokenizer(config, train_small, tmp_path / "run")


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_token(tmp_path: Path) -> None:
    folder = stored_model(tmp_path / "model")
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(folder)
    bare.pad_token = None
    bare.save_pretrained(folder)
    tokenizer = causal.tokenizer(causal.Config(kind="causal", model=str(folder)), train_small, tmp_path / "run")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("settings", [{}, {"model": "x", "config": SMALL}, {"config": {"hidden_size": 16}}])
def test_a_config_needs_one_source_and_a_model_type(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"either `model`|model_type is missing"):
        causal.Config(kind="causal", **settings)


def test_the_width_is_known_without_building() -> None:
    assert causal.facts(make_scratch_config()) == 16


@pytest.mark.parametrize(
    ("config", "width"),
    [
        ({"model_type": "gpt2", "n_embd": 24}, 24),
        ({"model_type": "mpt", "d_model": 8}, 8),
        ({"model_type": "qwen2"}, None),
    ],
)
def test_the_width_is_found_under_the_name_of_each_family(config: dict[str, Any], width: int | None) -> None:
    assert causal.facts(causal.Config(kind="causal", config=config)) == width


def test_the_width_of_a_folder_is_read_from_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gemma3", "text_config": {"hidden_size": 48}}')
    assert causal.facts(causal.Config(kind="causal", model=str(tmp_path))) == 48


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 3}, "3 heads do not divide the width of 16"),
        ({"num_attention_heads": 8, "num_key_value_heads": 3}, "3 key and value heads do not divide the 8 heads"),
    ],
)
def test_heads_that_do_not_divide_the_width_are_refused_before_building(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        causal.facts(causal.Config(kind="causal", config={**SMALL, **changes}))


# --- the token that stands for an image --------------------------------------------------------------


@pytest.mark.parametrize(("vocabulary", "expected"), [
    ({"a": 0, "<unused1>": 2, "<unused0>": 1}, "<unused0>"),
    ({"<|reserved_special_token_12|>": 9, "<|reserved_special_token_3|>": 4}, "<|reserved_special_token_3|>"),
    ({"<|fim_pad|>": 1, "<|vision_start|>": 2, "<|image_pad|>": 3, "<|video_pad|>": 4}, "<|image_pad|>"),
    ({"<unused0>": 1, "<image_soft_token>": 7}, "<image_soft_token>"),
    ({"<|endoftext|>": 1}, None),
])  # fmt: skip
def test_an_image_token_is_preferred_to_an_unused_one(vocabulary: dict[str, int], expected: str | None) -> None:
    assert _language.find_image_token(vocabulary) == expected


@pytest.mark.parametrize("spare", ["<|image_pad|>", "<|reserved_special_token_0|>"])
def test_a_reserved_token_serves_as_image_token_without_a_new_row(spare: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = stored_model(tmp_path / "model", spare=spare, rows=400)
    config = causal.Config(kind="causal", model=str(folder))
    tokenizer = causal.tokenizer(config, train_small, tmp_path / "run")
    again = causal.tokenizer(config, train_small, tmp_path / "run")
    assert tokenizer.image_token == again.image_token == spare and len(tokenizer) == len(again) == len(
        AutoTokenizer.from_pretrained(folder)
    )
    ours: Any = causal.build(config, tokenizer)
    assert ours.get_input_embeddings().num_embeddings == ours.config.vocab_size == 400
    parts = [{"type": "image"}, {"type": "text", "text": "Is there a nodule?"}]
    text = again.apply_chat_template([{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True)
    assert text == f"<s><|user|>{spare}Is there a nodule?<|assistant|>"
    assert again(text, add_special_tokens=False).input_ids.count(again.convert_tokens_to_ids(spare)) == 1


# --- weights -----------------------------------------------------------------------------------------


def test_a_language_model_whose_weights_lack_a_key_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = stored_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in weights.items() if "up_proj" not in n}, folder / "model.safetensors", {"format": "pt"})
    config = causal.Config(kind="causal", model=str(folder))
    tokenizer = causal.tokenizer(config, train_small, tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"model.language: the weights lack model.layers.0.mlp.up_proj.weight \(1 keys\)"
    ):
        causal.build(config, tokenizer)


def test_a_missing_model_is_reported_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read the tokenizer of 'nobody/nothing'.*give the folder of a copy"):
        causal.tokenizer(causal.Config(kind="causal", model="nobody/nothing"), train_small, tmp_path)


def test_building_does_not_change_the_config() -> None:
    """A stage resumes by a hash of its settings, so building must not change them."""
    rope = {"rope_type": "linear", "factor": 2.0}
    config = causal.Config(kind="causal", config={**SMALL, "rope_scaling": rope, "rope_theta": 20000.0}, vocabulary=320)
    before = config.model_dump_json()
    causal.build(config, train_small(320))
    assert config.model_dump_json() == before
