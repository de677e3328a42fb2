"""No model may write a word that stands for a medium: the placeholders, and what surrounds or divides them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medvlm.core.config import kinds
from medvlm.core.media_words import list_media_ids, names_medium
from medvlm.core.turns import Message
from medvlm.data.processor import NativeDialogue, Processor
from medvlm.preflight.rehearsal.ready import make_config

SIZES = [(40, 40), (61, 97), (150, 37)]
MEDIA = ("image", "video", "audio", "vision", "boi", "eoi", "boa", "eoa")


@pytest.fixture(scope="module", params=kinds("families"))
def processor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Processor:
    if request.param == "smolvlm":
        pytest.importorskip("num2words", reason="its processor needs num2words")
    folder: Path = tmp_path_factory.mktemp(request.param)
    for part in make_config(request.param):
        part.save_pretrained(folder)
    return Processor(folder)


def test_every_word_around_and_inside_a_picture_is_barred(processor: Processor) -> None:
    """Read off the text that the family's processor writes for pictures of several sizes, and off its chat template."""
    own = processor.tokenizer
    added = {id_ for id_, token in own.added_tokens_decoder.items()} - {own.bos_token_id, own.eos_token_id}
    once = processor.family.asks_once
    shown = [np.zeros((*size, 3), np.uint8) for size in SIZES[: 1 if processor.family.places_picture else 3]]
    dialogue = NativeDialogue(processor)
    written = set(dialogue.read(dialogue.write((asked(len(shown)),), ask=True), processor.look(shown).expansions))
    plain = set() if once else set(dialogue.read(dialogue.write((asked(0),), ask=True), ()))
    of_pictures = (written - plain) & added
    assert processor.config.image_token_id in of_pictures
    assert of_pictures <= set(processor.barred_ids), own.convert_ids_to_tokens(of_pictures - set(processor.barred_ids))


def asked(pictures: int) -> Message:
    return Message("user", (*[None] * pictures, "a b"))


def test_every_medium_that_the_config_names_is_barred_and_no_end_is(processor: Processor) -> None:
    named = {
        value
        for key, value in processor.config.to_dict().items()
        if key.rpartition("_")[2] in ("id", "index") and key.startswith(MEDIA) and value is not None
    }
    assert named and named <= set(processor.barred_ids)
    turns = processor.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<end_of_turn>", "<turn|>", "<|user|>"])
    assert not set(processor.barred_ids) & {processor.tokenizer.eos_token_id, *turns}


BARRED = [
    *("<image>", "<video>", "<|image|>", "<start_of_image>", "<image_soft_token>", "<|vision_start|>", "<|image_pad|>"),
    *(
        "<|vision_pad|>",
        "<IMG_CONTEXT>",
        "</img>",
        "[IMG]",
        "[IMG_BREAK]",
        "<row_1_col_2>",
        "<global-img>",
        "<|patch|>",
    ),
    *("<fake_token_around_image>", "<|img_row_3_col_10|>", "<|img_thumbnail|>", "<|tile_x_separator|>", "TILE_GLOBAL"),
    *("<|begin_of_audio|>", "[AUDIO]", "<audio|>", "<|START_OF_IMG|>", "<IMG_COL>", "<|begin_of_video|>", "<im_patch>"),
]
"""Of published tokenizers."""
FREE = [
    *(
        "</s>",
        "<|im_start|>",
        "<|im_end|>",
        "<think>",
        "</answer>",
        "<loc0012>",
        "<loc_12>",
        "<poly>",
        "<seg001>",
        "<patch_index_0044>",
        "[INST]",
    ),
    *(
        "<|box_start|>",
        "<|object_ref_start|>",
        "<ref>",
        "<box>",
        "<|quad_end|>",
        "<|user|>",
        "<|tool_call|>",
        "<unused7>",
    ),
]


@pytest.mark.parametrize("word", BARRED)
def test_published_words_of_media_are_known(word: str) -> None:
    assert names_medium(word)


@pytest.mark.parametrize("word", FREE)
def test_words_that_answers_are_written_in_stay_free(word: str) -> None:
    assert not names_medium(word)


@lru_cache
def tokenizer() -> Any:
    words = ["<pad>", "</s>", "<image>", "<box>", "MARK", "<unk>"]
    return SimpleNamespace(
        added_tokens_decoder=dict(enumerate(words)),
        eos_token_id=1,
        unk_token_id=5,
        convert_tokens_to_ids=lambda word: words.index(word) if word in words else 5,
    )


def test_words_of_the_processor_are_barred_too_but_no_end_and_no_unknown_word() -> None:
    assert list_media_ids(tokenizer()) == (2,)
    assert list_media_ids(tokenizer(), ["MARK", "</s>", "not there"]) == (2, 4)
