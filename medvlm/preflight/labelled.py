"""Made-up questions about classes, for the decoders of a recipe whose data are not available, and for probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medvlm.core.decoder_config import find_encoder, find_form
from medvlm.core.sample import Medium, Question
from medvlm.core.tasks import find_task, list_tasks
from medvlm.io.masks import encode_mask

if TYPE_CHECKING:
    import numpy as np


def make_labelled(
    rng: np.random.Generator, media: Sequence[Medium], recipe: Any
) -> Iterator[tuple[Question, dict[str, bytes]]]:
    """A question and its member files, for each decoder that reads the first medium: of the model, and of the stages'
    own losses."""
    model = recipe.model
    decoders = {**model.decoders, **{each.answers: each for stage in recipe.stages for each in stage.list_decoders()}}
    for name, decoder in decoders.items():
        reads = [find_encoder(name, decoder, model.encoders)] if name in model.decoders else [*model.encoders]
        if not media or not any(media[0].kind in (model.encoders[each].serves or (each,)) for each in reads):
            continue
        form = find_form(decoder)
        for task in (find_task(kind) for kind in list_tasks()):
            made = None
            if form == task.ANSWERED_BY and task.make_labelled is not None:
                made = task.make_labelled(rng, media, decoder.classes, decoder.exclusive)
            if made is not None:
                text, truth, masks = made
                files = dict(_encode(masks))
                names = {member.rpartition(".")[0]: member for member in files}
                yield Question(text, truth.rename(names), decoder.answers or name), files
                break


def make_offered(rng: np.random.Generator, media: Sequence[Medium], offers: Mapping[str, Any]) -> Iterator[Question]:
    """A question for each template with classes and without masks, for a model without decoders, whose features are
    classified. offers: see core/content.py."""
    for template, offer in sorted(offers.items()):
        make, classes = find_task(offer.task).make_labelled, sorted(offer.classes)
        if make is not None and classes and (made := make(rng, media, classes, True)):
            text, truth, masks = made
            if not masks:
                yield Question(text, truth, template)


def _encode(masks: Mapping[str, np.ndarray]) -> Iterator[tuple[str, bytes]]:
    for name, mask in masks.items():
        suffix, data = encode_mask(mask, name)
        yield f"{name}.{suffix}", data
