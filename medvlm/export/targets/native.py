"""A trained ready model as a folder of its family's own class and processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from medvlm.data.dialogue import TokenSequence
from medvlm.data.native import NativeDialogue, NativePrepare, Processor
from medvlm.export.audit import Audit, account
from medvlm.export.language import LOADING_ANSWERS, make_generation_config
from medvlm.export.proof import reference as references
from medvlm.export.proof.reference import MAX_NEW_TOKENS, QUESTIONS, SAID, make_images
from medvlm.export.trained import Holds, Trained
from medvlm.models.generate import find_end_ids, generate
from medvlm.models.lora import merge
from medvlm.models.native import NativeVLM
from medvlm.models.parts import evaluating

LIBRARY, LOADER = "transformers", "stock"
HOLDS = Holds(NativeVLM, order=1, servers=None)
LOADING = LOADING_ANSWERS


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    return None if model.pretrained else "the model is composed of parts, and `native` is for a ready model"


def map_names(trained: Trained) -> Callable[[str], str | None]:
    """A parameter's or adapter's name -> its name in the family's own class, or None."""
    model: NativeVLM = trained.model
    there = {id(module): name for name, module in model.stock.named_modules()}
    moved = {name: there[id(module)] for name, module in model.named_modules() if id(module) in there}

    def place_of(full: str) -> str | None:
        inside, _, last = full.partition(".lora_")[0].rpartition(".")
        layer = f"{inside}.{last}" if ".lora_" in full else inside
        return moved[layer] + full[len(layer) :] if layer in moved else None

    return place_of


def write(trained: Trained, folder: Path) -> Audit:
    """Folds adapters into the model permanently."""
    model: NativeVLM = trained.model
    adapters = [n for n, _ in model.named_parameters() if ".lora_" in n]
    merge(model)
    stock = model.stock
    stored = stock.state_dict(keep_vars=True)
    place_of = {id(tensor): name for name, tensor in stored.items()}
    source = dict(model.state_dict(keep_vars=True))
    shared = {name: place_of[id(tensor)] for name, tensor in stored.items() if place_of[id(tensor)] != name}
    own = {name: tensor for name, tensor in source.items() if id(tensor) in place_of}
    first = {id(tensor): name for name, tensor in reversed(own.items())}
    once = {name: tensor for name, tensor in own.items() if first[id(tensor)] == name}
    wanted = {name: tensor for name, tensor in stored.items() if name not in shared}
    _, audit = account(once, lambda name: place_of[id(source[name])], wanted, adapters, trained.is_trained)
    audit.shared.update(shared)
    stock.generation_config = make_generation_config(model, trained.tokenizer)
    stock.config.dtype = stock.dtype
    stock.save_pretrained(folder)
    save_processor(trained, folder)
    return audit


def save_processor(trained: Trained, folder: Path) -> None:
    prepare = _get_prepare(trained)
    padding = prepare.processor.tokenizer.padding_side
    # Generation continues every prompt of a batch at its right end.
    prepare.processor.tokenizer.padding_side = prepare.processor.tokenizer.init_kwargs["padding_side"] = "left"
    prepare.processor.stock.save_pretrained(folder)
    prepare.processor.stock.image_processor.save_pretrained(folder)
    prepare.processor.tokenizer.padding_side = padding


def write_reference(trained: Trained, folder: Path) -> None:
    """Writes token ids, logits and greedy answers, and the token ids of whole conversations, from this package's own
    data path and model."""
    from PIL import Image

    prepare, model, tokenizer = _get_prepare(trained), trained.model, trained.tokenizer
    pictures = [image if image.ndim == 3 else image[..., None].repeat(3, -1) for image in make_images()]
    names = [f"image.{i}.png" for i in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        Image.fromarray(picture).save(folder / name)
    dialogue = NativeDialogue(prepare.processor)
    once = model.family.asks_once  # the processor of such a family refuses a text without an image
    asked = (
        [([i], QUESTIONS[i % len(QUESTIONS)]) for i in range(len(pictures))]
        + [([2, 0], "What is the difference?")] * (not model.family.places_picture)
        + [([], "What is an image?")] * (not once)
    )
    cases: list[dict[str, Any]] = []
    tensors: dict[str, torch.Tensor] = {}
    effect = None
    with evaluating(model):
        for shown, question in asked:
            media = [("image", prepare.processor.look([pictures[i] for i in shown]))] if shown else []
            prompt = dialogue.turn(question, [text for _, made in media for text in made.expansions], None).prompt
            batch = prepare.collate([TokenSequence("proof", prompt, [], media)], tokenizer.pad_token_id, pack=False)
            logits_TV = model.compute_all_logits(batch)[0]
            if effect is None:
                blank = [("image", prepare.processor.look([0 * pictures[i] for i in shown]))]
                unseen = prepare.collate(
                    [TokenSequence("proof", prompt, [], blank)], tokenizer.pad_token_id, pack=False
                )
                effect = (model.compute_all_logits(unseen)[0] - logits_TV)[-1].abs().max().item()
            answer = generate(model, batch, max_new_tokens=MAX_NEW_TOKENS, end_ids=find_end_ids(model, tokenizer))[0]
            tensors[f"logits.{len(cases)}"] = logits_TV.contiguous()
            cases.append(
                {
                    "images": [names[i] for i in shown],
                    "question": question,
                    "ids": prompt,
                    "text": tokenizer.decode(answer, skip_special_tokens=True),
                }
            )
    golden = [] if once else list(_make_golden(prepare.processor, dialogue, pictures, names))
    references.save(
        folder,
        {
            "kind": "answers",
            "max_new_tokens": MAX_NEW_TOKENS,
            "image_effect": effect,
            "has_encoder": model.has_encoder,
            "cases": cases,
            "golden": golden,
        },
        tensors,
    )


def _make_golden(
    processor: Processor, dialogue: NativeDialogue, pictures: Sequence[Any], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for i in range(20):
        question, said = SAID[i % len(SAID)]
        shown = [(i + k) % len(names) for k in range(i % 4)]
        expansions = processor.look([pictures[j] for j in shown]).expansions if shown else ()
        turn = dialogue.turn(question, expansions, said)
        yield {
            "images": [names[j] for j in shown],
            "question": question,
            "answer": said,
            "prompt": turn.prompt,
            "ids": turn.prompt + turn.answer[: len(turn.answer) - bool(processor.family.end)],
        }


def _get_prepare(trained: Trained) -> NativePrepare:
    assert isinstance(trained.prepare, NativePrepare), "a ready model comes with its processor"
    return trained.prepare
