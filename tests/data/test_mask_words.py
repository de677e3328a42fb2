"""How many parts a mask has, how large they are, and where they lie, by hand-made masks."""

from __future__ import annotations

import numpy as np
import pytest

from medvlm.core.config import component
from medvlm.core.errors import DataError
from medvlm.data.mask_words import describe_mask
from medvlm.data.prompts import Prompt, say


def draw(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """90 x 120 pixels, whose thirds are 30 and 40."""
    mask = np.zeros((90, 120), bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("boxes", "number", "sizes", "places"),
    [
        ([], "no", "", ""),
        ([(0, 0, 20, 20)], "one", "small", "top left"),
        ([(30, 40, 60, 80)], "one", "medium", "center"),
        ([(30, 0, 60, 35)], "one", "medium", "left"),
        ([(0, 0, 80, 100)], "one", "large", "center"),
        ([(0, 0, 40, 60)], "one", "medium", "top left"),
        ([(61, 50, 63, 54)], "one", "tiny", "bottom"),
        ([(0, 0, 3, 3), (60, 85, 89, 119)], "two", "tiny, medium", "top left, bottom right"),
    ],
)
def test_a_mask_in_words(boxes: list[tuple[int, int, int, int]], number: str, sizes: str, places: str) -> None:
    assert describe_mask(draw(*boxes)) == {"number": number, "sizes": sizes, "places": places}


def test_texts_tell_of_the_mask_and_need_one() -> None:
    text = "{number} {sizes} polyp located in {places} of the image"
    module = component("decoders", "text_unet")
    decoder = module.Config(kind="text_unet", classes=("polyp",), texts={"polyp": (text,)})
    heard: list[str] = []

    def tokenize(said: str) -> list[int]:
        heard.append(said)
        return [1]

    prompt = Prompt(0, ("text",))
    assert say(prompt, decoder, "", "film", tokenize, is_marked=draw((0, 0, 20, 20))).ids == {"asked": (1,)}
    assert heard == ["one small polyp located in top left of the image"]
    with pytest.raises(DataError, match="tells of the mask of an image, and there is no mask; ask in other words"):
        say(prompt, decoder, "", "film", tokenize)
