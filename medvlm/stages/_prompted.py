"""What a stage of decoders adds for those that take prompts: which objects of a sample are read, what shows them, and
the decoders' own losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medvlm.core.config import component
from medvlm.core.contracts import Outputs
from medvlm.core.decoder_config import PromptedConfig, list_texts, takes_prompts
from medvlm.core.problems import Problem
from medvlm.data.prompts import Prompt, draw_prompt
from medvlm.models.decoding import Labelled, name_output
from medvlm.stages._labelled import gather_uneven
from medvlm.train.terms import Loss

if TYPE_CHECKING:
    from medvlm.train.engine import Engine

List = Callable[[str], Sequence[tuple[int, np.ndarray]]]
"""The form of a prompt -> the objects of a question, see ComposedPrepare.list_objects()."""


def draw_objects(
    decoder: PromptedConfig, list_objects: List, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, Prompt]]:
    """The labels of some of the objects of a question, int64 [1, *size], with what shows them but for texts. None where
    nothing is marked."""
    forms = [decoder.prompts[int(rng.integers(len(decoder.prompts)))] for _ in range(decoder.objects)]
    shares = {form: "box" if form in ("point", "rough_mask") else form for form in forms}
    left = {form: [*list_objects(form)] for form in sorted(set(shares.values()))}
    for form in forms:
        among = left[shares[form]]
        if among:
            number, labels = among.pop(int(rng.integers(len(among))))
            yield torch.from_numpy(labels)[None], draw_prompt(labels == 1, number, decoder, rng, form)


def check_texts(text: Any, model: Any) -> Iterator[Problem]:
    """Whether there is a text tower exactly if a decoder of the model reads texts. model: the section of the recipe."""
    reading = [name for name, decoder in model.decoders.items() if list_texts(decoder)]
    if reading and text is None:
        example = "text: {kind: transformers, model: ...}"
        yield Problem((), f"decoder {reading[0]} reads texts; name the text tower that reads them for it, {example}")
    if text is not None and not reading:
        yield Problem(("text",), "no decoder reads texts; remove it, or add prompts: [text] to a decoder")


def list_own_terms(decoders: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The names of the losses that decoders have of their own, each with its decoder."""
    for name, decoder in decoders.items():
        if takes_prompts(decoder):
            yield from ((name, term) for term in _find(decoder, "list_terms", lambda config: ())(decoder))


def weigh_own_terms(decoders: Mapping[str, Any], micro: Labelled) -> dict[str, float]:
    return {
        f"{name}.{term}": component("decoders", decoders[name].kind).weigh_term(
            decoders[name], term, micro.labels[name], micro.prompts[name]
        )
        if name in micro.prompts
        else 0.0
        for name, term in list_own_terms(decoders)
    }


def add_up_own_terms(
    decoders: Mapping[str, Any], outputs: Outputs, micro: Labelled, weights: Mapping[str, float], engine: Engine
) -> dict[str, Loss]:
    """outputs: of the model. Those without an object are empty: 0, with a gradient of zeros for DDP. Called on every
    rank, for terms that compare the objects of all of them."""
    found = {}
    for name, term in list_own_terms(decoders):
        whole, module = name_output(name), component("decoders", decoders[name].kind)
        own = {each[len(whole) :].removeprefix("."): value for each, value in outputs.items() if _is_of(each, whole)}
        total = sum((each.float().sum() for each in own.values()), torch.zeros((), device=engine.device))
        if compared := list_joint(decoders[name]).get(term):
            blank = torch.zeros(0, 0, device=engine.device)  # of a rank that evaluates and has no object
            rows, ours = gather_uneven(engine, *(own.get(each, blank).float() for each in compared))
            if len(rows[0]):
                total = module.add_up_joint_term(decoders[name], term, dict(zip(compared, rows, strict=True)), ours)
        elif name in micro.prompts:
            total = module.add_up_term(decoders[name], term, own, micro.labels[name], micro.prompts[name])
        found[f"{name}.{term}"] = Loss(total, weights[f"{name}.{term}"])
    return found


def list_joint(decoder: Any) -> dict[str, tuple[str, ...]]:
    """The losses of its own that compare the objects of a batch with each other, each with the outputs that it
    compares."""
    joint: Mapping[str, tuple[str, ...]] = getattr(component("decoders", decoder.kind), "JOINT_TERMS", {})
    on = _find(decoder, "list_terms", lambda config: ())(decoder) if joint else ()
    return {term: joint[term] for term in on if term in joint}


def _is_of(output: str, whole: str) -> bool:
    return output == whole or output.startswith(f"{whole}.")


def _find(decoder: Any, function: str, otherwise: Any) -> Any:
    return getattr(component("decoders", decoder.kind), function, otherwise)
