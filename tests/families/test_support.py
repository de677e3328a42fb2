"""The list of ready models in the documentation is what the code, transformers and the tests say."""

from __future__ import annotations

import inspect

import pytest

from medvlm.core.config import kinds
from medvlm.core.families import family_of
from tests.families import support


def test_every_type_of_transformers_is_covered_or_left_out_with_a_reason() -> None:
    covered, listed = set(kinds("families")), set(support.list_types())
    assert set(support.MODELS) == covered <= listed
    assert set(support.LEFT_OUT) == listed - covered


@pytest.mark.slow  # imports a hundred models
@pytest.mark.parametrize("type_", sorted(support.list_types()))
def test_reasons_are_true(type_: str) -> None:
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    why, stock = support.LEFT_OUT.get(type_, ""), getattr(transformers, support.list_types()[type_])
    encoded = not why and family_of(type_).has_encoder  # whose features are put into the prompt by medvlm
    assert (support.SPLIT in why) == (not support.takes_features(type_) and not encoded)
    if support.SPLIT not in why:
        assert (support.NO_PROCESSOR in why) == (not PROCESSOR_MAPPING_NAMES.get(type_))
    if support.SEQ2SEQ in why:
        assert "decoder_input_ids" in inspect.signature(stock.forward).parameters or "encoder" in inspect.getsource(
            stock
        )
    if why == support.UNSCALED:
        assert "logit_scale" not in inspect.getsource(stock.forward)


def test_the_page_holds_the_table() -> None:
    page = support.PAGE.read_text()
    assert support.replace_table(page, support.make_table()) == page, "run `python -m tests.families.support`"
