"""Ready models of every family against what transformers computes from the same pictures and words with the same
weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.config import kinds
from medvlm.core.engine_config import EngineConfig
from medvlm.core.errors import RecipeError
from medvlm.core.lora_config import Lora
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.core.text import MEDIUM
from medvlm.core.turns import Message, list_asked
from medvlm.data.native import NativePrepare, Processor, make_native_prepare
from medvlm.io.images import encode_png
from medvlm.models import masks
from medvlm.models.attention import attending, use_attention
from medvlm.models.generate import find_end_ids, generate
from medvlm.models.lora import attach, merge
from medvlm.models.native import NativeVLM
from medvlm.models.parts import group_of, set_trained
from medvlm.models.ready import build_native
from medvlm.preflight.rehearsal.ready import save_random, save_tiny
from tests.families.variants import VARIANTS, make_variant, mark_slow

SIZES = ((61, 97), (131, 64), (50, 50))
ANSWERS = ("left", "the right lung", "2")


@pytest.fixture(
    scope="module",
    params=mark_slow((*kinds("families"), *VARIANTS)),
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "smolvlm":
        pytest.importorskip("num2words", reason="its processor needs num2words")
    folder = tmp_path_factory.mktemp(request.param)
    if request.param in VARIANTS:
        return save_random(*make_variant(request.param), folder)
    return save_tiny(request.param, folder)


@pytest.fixture(scope="module")
def prepare(folder: Path) -> NativePrepare:
    return make_native_prepare(Processor(folder), {}, "", 1000)


@pytest.fixture(scope="module")
def model(folder: Path, prepare: NativePrepare) -> NativeVLM:
    return build_native(folder, prepare.processor.blank(), 0, barred_ids=prepare.processor.barred_ids).eval()


def pictures(number: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*SIZES[i % 3], 3), dtype=np.uint8) for i in range(number)]


def document(prepare: NativePrepare, images: list[np.ndarray], answers: Sequence[str], key: str) -> Any:
    media = tuple(Medium("film", f"{i}.png", image.shape[:2]) for i, image in enumerate(images))
    asked = [Question(f"Which side? {n}", make_truth("open", answer), "side") for n, answer in enumerate(answers)]
    held = Sample(key, "made", "train", media, questions=tuple(asked))
    seen = prepare.see(held, {f"{i}.png": encode_png(image) for i, image in enumerate(images)})
    return prepare.document(held, asked, seen, ["media"])


def list_end(prepare: NativePrepare) -> list[int]:
    """The id that ends an answer where the chat template writes none."""
    end = prepare.processor.family.end
    return [prepare.processor.tokenizer.convert_tokens_to_ids(end)] if end else []


def by_transformers(
    model: NativeVLM, prepare: NativePrepare, images: list[np.ndarray], number: int, answer: str
) -> torch.Tensor:
    """Logits of the answer's tokens, from the processor's call and the stock forward on that one conversation."""
    from PIL import Image

    shown = [Image.fromarray(image) for image in images]
    stock, eos = prepare.processor.stock, prepare.processor.tokenizer
    if model.family.has_encoder:
        inputs = stock(images=shown, text=f"Which side? {number}", return_tensors="pt")
        said = eos(answer, return_tensors="pt").input_ids  # as it is published: begins with the first token
        told: torch.Tensor = model.stock(**inputs, labels=said).logits[0, 1:]
        return told
    if model.family.reads_prompt_both_ways:
        inputs = stock(
            images=[shown],
            text=["<image>" * len(shown) + f"Which side? {number}"],
            suffix=[answer],
            return_tensors="pt",
        )
        inputs.pop("labels")
        trained = len(eos(answer + eos.eos_token, add_special_tokens=False).input_ids)
    else:
        asked = {
            "role": "user",
            "content": [
                *({"type": "image", "image": s} for s in shown),
                {"type": "text", "text": f"Which side? {number}"},
            ],
        }
        said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        inputs = stock.apply_chat_template([asked, said], tokenize=True, return_dict=True, return_tensors="pt")
        prompt = stock.apply_chat_template(
            [asked], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
        trained = inputs["input_ids"].shape[1] - prompt["input_ids"].shape[1]
    logits: torch.Tensor = model.stock(**inputs).logits[0, -trained - 1 :]
    # The last one predicts nothing, or the token that ends an answer where the template writes none.
    return logits if model.family.end else logits[:-1]


def test_several_samples_of_several_images_and_answers_have_the_logits_and_gradients_that_each_has_alone(
    model: NativeVLM, prepare: NativePrepare
) -> None:
    """0, 1 and 3 images, several answers to one prompt, samples that share rows: in one batch, whose images differ in
    size and number."""
    counts = [1, 3, 2] if model.family.asks_once else [0, 1, 3]
    shown = [pictures(1 if model.family.places_picture else n, seed) for seed, n in enumerate(counts)]
    documents = [document(prepare, images, ANSWERS[: 1 + n % 3], f"s{n}") for n, images in enumerate(shown)]
    batch = prepare.collate(documents, 0)
    model.requires_grad_(True)
    got = model(batch)["logits_LV"]
    expected = [
        by_transformers(model, prepare, images, a, answer)
        for n, images in enumerate(shown)
        for a, answer in enumerate(ANSWERS[: 1 + n % 3])
    ]
    assert (len(batch.ids_BT) < 6) == model.family.shares_rows, "answers to one prompt share its row, where they can"
    torch.testing.assert_close(got, torch.cat(expected), rtol=0, atol=2e-5)
    probe = torch.randn(got.shape, generator=torch.Generator().manual_seed(0)) / len(got)
    named = [(name, p) for name, p in model.named_parameters()]
    both = [
        torch.autograd.grad((logits * probe).sum(), [p for _, p in named], allow_unused=True)
        for logits in (got, torch.cat(expected))
    ]
    for (name, _), mine, theirs in zip(named, *both, strict=True):
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5 * max(1.0, theirs.abs().max().item()), msg=name)
    assert int(batch.answers_L.max()) == len(expected) - 1


def test_kernels_for_rows_have_the_logits_and_gradients_of_the_dense_mask(
    model: NativeVLM, prepare: NativePrepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For rows of several samples with 0, 1 and 3 images and several answers, and, where no token attends to a later
    one, for documents."""
    if not model.family.shares_rows:
        with pytest.raises(RecipeError, match=r"gets one text per row|reads prompts with an encoder"):
            use_attention(model, EngineConfig(attention="flex", device="cpu"), torch.device("cpu"))
        pytest.skip("its rows have one text each")
    if model.only_dense:
        assert "whole pictures within windows" in model.only_dense
        pytest.skip("no other kernel knows its windows")
    monkeypatch.setattr(masks, "BLOCK", 8)  # or these rows would be one block
    counts = [0, 1, 3]
    shown = [pictures(n, seed) for seed, n in enumerate(counts)]

    def measure(most: int, *kernels: str) -> list[torch.Tensor]:
        made = [document(prepare, images, ANSWERS[: 1 + len(images) % most], "s") for images in shown]
        batch = prepare.collate([*made, document(prepare, shown[0], ["left"], "t")], 0)
        model.zero_grad()
        with attending(model, *kernels):
            logits_LV = model(batch)["logits_LV"]
            logits_LV.logsumexp(-1).sum().backward()
        return [logits_LV.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    for kernel, most in (("flex", 3), ("varlen", 1)):
        if kernel == "varlen" and model.reads_both_ways:
            with pytest.raises(RecipeError, match="read in both directions"):
                measure(most, kernel)
            continue
        got, expected = measure(most, kernel), measure(most, "dense")
        assert len(got) == len(expected) > 10
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, float(b.abs().max())))


def test_a_dialogue_has_the_logits_of_the_stock_model_and_shares_a_batch(
    model: NativeVLM, prepare: NativePrepare
) -> None:
    """Images in the first and in the second turn, inside its text; beside a text alone and a sample of three images."""
    from PIL import Image

    if model.family.asks_once:
        pytest.skip("it answers one question")
    images = pictures(3, 5)
    media = tuple(Medium("film", f"{i}.png", image.shape[:2]) for i, image in enumerate(images))
    texts = ((f"{MEDIUM}Which?", "left"), (f"Or {MEDIUM} and {MEDIUM}?", "the right lung"), ("How many?", "2"))
    turns = [Question(text, make_truth("open", said), "t", turn=n + 1) for n, (text, said) in enumerate(texts)]
    sample = Sample("d", "made", "train", media, questions=tuple(turns))
    last = list_asked(sample)[-1]
    made = prepare.document(
        sample, [last], prepare.see(sample, {f"{i}.png": encode_png(im) for i, im in enumerate(images)}), ["media"]
    )
    batch = prepare.collate([document(prepare, [], ["left"], "t"), made, document(prepare, images, ["2"], "i")], 0)
    with torch.no_grad():
        got = model(batch)["logits_LV"]
    shown, messages = iter(images), []
    for text, said in texts:
        first, *others = text.split(MEDIUM)
        content: list[Any] = [{"type": "text", "text": first}] if first else []
        for other in others:
            content += [{"type": "image", "image": Image.fromarray(next(shown))}, {"type": "text", "text": other}]
        messages += [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": said}]},
        ]
    inputs = prepare.processor.stock.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    assert made.prefix + made.branches[0][0] == inputs["input_ids"][0].tolist() + list_end(prepare)
    with torch.no_grad():
        logits = model.stock(**inputs).logits[0]
    at = [len(made.prefix) + i - 1 for start, end, _ in made.answers[0] for i in range(start, end)]
    own = (batch.answers_L > 0) & (batch.answers_L < 4)
    torch.testing.assert_close(got[own], logits[at], rtol=0, atol=2e-5)


def test_greedy_answers_are_those_of_its_own_generate(model: NativeVLM, prepare: NativePrepare) -> None:
    from PIL import Image

    shown = [pictures(1 if model.family.places_picture else n, 10 + n) for n in (1, 2)]
    # The id that ends an answer is unlikely here. That of a decoder is not the one that it always begins with.
    end, begun = (2, 2) if model.family.has_encoder else (1, 0)
    prompts = [document(prepare, images, ["left"], "s") for images in shown]
    for prompt in prompts:
        prompt.branches.clear()
    asked = [
        [
            {
                "role": "user",
                "content": [
                    *({"type": "image", "image": Image.fromarray(i)} for i in images),
                    {"type": "text", "text": "Which side? 0"},
                ],
            }
        ]
        for images in shown
    ]
    expected = []
    for n, conversation in enumerate(asked):
        inputs = prepare.processor.stock.apply_chat_template(
            conversation, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
        inputs.pop("labels", None)
        prompts[n].prefix[:] = inputs["input_ids"][0].tolist()
        out = model.stock.generate(
            **inputs, max_new_tokens=6 + begun // 2, do_sample=False, suppress_tokens=list(model.barred_ids),
            eos_token_id=[end],
        )  # fmt: skip
        expected.append(out[0, begun or inputs["input_ids"].shape[1] :].tolist())
    got = generate(model, prepare.collate(prompts, 0, pack=False), max_new_tokens=6, end_ids=[end])
    assert got == expected
    copies = generate(model, prepare.collate(prompts, 0, pack=False), max_new_tokens=6, end_ids=[end], copies=2)
    assert copies == [a for answer in expected for a in (answer, answer)]


def test_no_word_of_a_medium_is_written_even_if_it_is_the_likeliest(
    model: NativeVLM, prepare: NativePrepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    barred, head = set(model.barred_ids), model.stock.lm_head.forward
    rise_V = torch.zeros(model.stock.lm_head.out_features).index_fill(0, torch.tensor(sorted(barred)), 1e4)
    monkeypatch.setattr(model.stock.lm_head, "forward", lambda hidden: head(hidden) + rise_V)
    prompt = document(prepare, pictures(1, 5), ["left"], "s")
    prompt.branches.clear()

    def answer() -> set[int]:
        return set(generate(model, prepare.collate([prompt], 0, pack=False), max_new_tokens=4, end_ids=[1])[0])

    assert not answer() & barred
    monkeypatch.setattr(model, "barred_ids", ())
    assert answer() <= barred


def test_token_ids_are_those_of_the_processor_for_conversations_of_several_turns(prepare: NativePrepare) -> None:
    from PIL import Image

    processor = prepare.processor
    if processor.family.asks_once:
        pytest.skip("it answers one question; that its ids are right is in the test of logits")
    words = [
        "Which side?",
        "left",
        "How many?\n Count.",
        "2",
        "Größe in mm²?",
        "≥ 3",
        "And {that}? <b>",
        "[12, 340, 56, 789]",
    ]
    for number in range(20):
        images = pictures((0, 1, 3)[number % 3], number)
        turns = 1 + number % 4
        messages: list[dict[str, Any]] = []
        said: list[Message] = []
        for turn in range(turns):
            # All of them in the first turn, or one in each turn, inside its text.
            there = images if number < 10 and turn == 0 else images[turn : turn + 1] if number >= 10 else []
            before, text = (
                ("Look:", words[(number + 2 * turn) % 8]) if number >= 10 else ("", words[(number + 2 * turn) % 8])
            )
            opening = [{"type": "text", "text": before}] if before else []
            shown = [{"type": "image", "image": Image.fromarray(i)} for i in there]
            messages.append({"role": "user", "content": [*opening, *shown, {"type": "text", "text": text}]})
            said.append(Message("user", (*([before] if before else []), *[None] * len(there), text)))
            if turn + 1 < turns or number % 2:
                answer = words[(number + 2 * turn + 1) % 8]
                messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
                said.append(Message("assistant", (answer,)))
        images = images if number < 10 else images[:turns]
        ask = messages[-1]["role"] == "user"
        expected = processor.stock.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=ask
        )["input_ids"][0].tolist()
        expansions = processor.look(images).expansions if images else ()
        expected += list_end(prepare) if not ask else []
        turn_ids = prepare.dialogue.converse(said, expansions)
        assert turn_ids.prompt + turn_ids.answer == expected, number
        answers = [m.text for m in said if m.role == "assistant"]
        assert all(expected[end - 1 : end] == list_end(prepare) for _, end in turn_ids.earlier if list_end(prepare))
        trained = [expected[start:end] for start, end in turn_ids.earlier] + ([turn_ids.answer] if not ask else [])
        own = processor.tokenizer
        found = [own.decode(ids, skip_special_tokens=True).strip() for ids in trained]
        assert found == [own.decode(own(answer, add_special_tokens=False).input_ids).strip() for answer in answers]
        assert not ask or len(turn_ids.earlier) == turns - 1


def test_parts_have_the_names_that_composed_models_have_and_hold_every_parameter_once(model: NativeVLM) -> None:
    names = [n for n, _ in model.named_parameters()]
    kept = {"unread"} if model.family.unread else set()
    assert {group_of(n) for n in names} == {"encoders.image", "connectors.image", "language", *kept}
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in model.stock.parameters())
    tower = model.stock.model.get_submodule(model.family.tower)
    outside = {id(p) for n, p in model.named_parameters() if not n.startswith("encoders.")}
    assert {id(p) for n, p in model.named_parameters() if n.startswith("encoders.")} == {
        id(p) for p in tower.parameters()
    } - outside


@pytest.mark.parametrize("trains", ["encoders", "connectors", "lora"])
def test_what_is_trained_gets_a_gradient_and_nothing_else_does_with_images_and_without(
    folder: Path, prepare: NativePrepare, trains: str
) -> None:
    model = build_native(folder, prepare.processor.blank(), 0)
    if trains == "lora":
        attach(model, Lora(rank=2, targets=("language", "encoders")), seed=0)
        adapted = {n.rpartition(".lora_")[0] for n, _ in model.named_parameters() if ".lora_" in n}
        assert adapted and all(n.startswith(("language.model.", "encoders.image")) for n in adapted)
    set_trained(model, (trains,), "s")
    shown = document(prepare, pictures(1, 3), ["left"], "a")
    model(prepare.collate([shown], 0))["logits_LV"].logsumexp(-1).sum().backward()
    got = {group_of(n) for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert got == {{"encoders": "encoders.image", "connectors": "connectors.image", "lora": "lora"}[trains]}
    if prepare.processor.family.asks_once:
        return  # it has no text without an image
    model.zero_grad()
    silent = model(prepare.collate([document(prepare, [], ["left"], "b")], 0))["logits_LV"]
    expected = model.stock(input_ids=torch.tensor([[1, 5, 9]])).logits.shape[-1]
    assert silent.shape[-1] == expected
    silent.sum().backward()
    reached = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    if trains != "lora":
        assert reached, "a trained tower takes part in a batch without images, or other ranks would wait for it"
    if trains == "lora":
        before = model.compute_all_logits(prepare.collate([shown], 0))
        assert merge(model) == len(adapted)
        torch.testing.assert_close(model.compute_all_logits(prepare.collate([shown], 0)), before, rtol=0, atol=1e-5)


def test_a_model_that_is_not_there_says_what_to_do() -> None:
    with pytest.raises(RecipeError, match="gated, or give the path of a folder"):
        Processor("nobody/no-such-model")


def test_answers_of_a_run_end_where_they_ended_in_training(folder: Path, tmp_path: Path) -> None:
    """A published model names the end of a turn beside the end of a text, in generation_config.json alone."""
    published = shutil.copytree(folder, tmp_path / "published")
    generation = published / "generation_config.json"
    known = json.loads(generation.read_text()) if generation.exists() else {}
    generation.write_text(json.dumps({**known, "eos_token_id": [1, 7]}))
    processor = Processor(published)
    trained = build_native(published, processor.blank(), 0)
    run = Processor.of_run(str(published), {}, tmp_path / "run")
    evaluated = build_native(tmp_path / "run", run.blank(), 0, weights=False)
    assert {1, 7} <= set(find_end_ids(trained, processor.tokenizer))
    assert find_end_ids(evaluated, run.tokenizer) == find_end_ids(trained, processor.tokenizer)


def test_a_recipe_may_give_a_ready_model_a_template_and_a_system_prompt(folder: Path, tmp_path: Path) -> None:
    """Both are saved with the processor, so that evaluation and an exported model have them too."""
    if Processor(folder).family.asks_once:
        with pytest.raises(RecipeError, match="takes no system prompt"):
            Processor(folder, system="Be brief.")
        return
    Processor.of_run(str(folder), {}, tmp_path, "vicuna", "Be brief.")
    for processor in (Processor.of_run(str(folder), {}, tmp_path), Processor(folder, {}, "vicuna", "Be brief.")):
        asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}]
        text = processor.stock.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        assert text.endswith(f"Be brief. USER: {processor.stock.image_token}Why? ASSISTANT:")
