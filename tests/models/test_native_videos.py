"""Videos as the tokens of a family, against what transformers computes from the same frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medvlm.core.errors import RecipeError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.core.text import MEDIUM
from medvlm.data.native import NativePrepare, make_native_prepare
from medvlm.data.processor import Processor
from medvlm.data.views import Views
from medvlm.io.images import encode_npy, encode_png
from medvlm.models.native import NativeVLM
from medvlm.models.ready import build_native
from medvlm.preflight.rehearsal.ready import save_tiny

FPS = 2.5
SIZE = {"shortest_edge": 2048, "longest_edge": 16384}
FRAMES = 9
SHOWN = 5
"""An odd number, so that the last frame of a pair is repeated."""


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl", pytest.param("qwen2_vl", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def prepare(folder: Path) -> NativePrepare:
    views = {"clip": Views(video_fps=FPS, max_slices=SHOWN)}
    return make_native_prepare(Processor(folder, {"video": {"size": SIZE}}), views, "", 1000)


@pytest.fixture(scope="module")
def model(folder: Path, prepare: NativePrepare) -> NativeVLM:
    return build_native(folder, prepare.processor.blank(), 0).eval()


def make_sample() -> tuple[Sample, dict[str, bytes], np.ndarray, np.ndarray]:
    """A picture, a question, then a video inside the text."""
    rng = np.random.default_rng(1)
    film = rng.integers(0, 256, (61, 97, 3), dtype=np.uint8)
    video = rng.integers(0, 256, (FRAMES, 40, 56, 3), dtype=np.uint8)
    media = (Medium("film", "0.png", (61, 97)), Medium("clip", "1.npy", (FRAMES, 40, 56)))
    asked = Question(f"{MEDIUM}Look, then {MEDIUM} which side?", make_truth("open", "the right lung"), "side")
    files = {"0.png": encode_png(film), "1.npy": encode_npy(video)}
    return Sample("v", "made", "train", media, questions=(asked,)), files, film, video


def by_transformers(model: NativeVLM, prepare: NativePrepare, film: np.ndarray, video: np.ndarray) -> tuple[Any, ...]:
    """Ids of the whole conversation with the family's own video tokens, and its logits."""
    stock, at = prepare.processor.stock, [int((i + 0.5) * FRAMES / SHOWN) for i in range(SHOWN)]
    text = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Look, then"
        " <|vision_start|><|video_pad|><|vision_end|> which side?<|im_end|>\n"
        "<|im_start|>assistant\nthe right lung<|im_end|>\n"
    )
    inputs = stock(
        images=[[film]], videos=[[list(video[at])]], text=[text], return_tensors="pt", do_sample_frames=False,
        video_metadata=[{"fps": FPS, "frames_indices": at, "total_num_frames": FRAMES}],
    )  # fmt: skip
    with torch.no_grad():
        return inputs["input_ids"][0], model.stock(**inputs).logits[0]


def test_a_video_has_the_tokens_positions_and_logits_of_the_family(model: NativeVLM, prepare: NativePrepare) -> None:
    """In one batch with a text and with a sample of two pictures, in either order."""
    sample, files, film, video = make_sample()
    made = prepare.document(sample, sample.questions, prepare.see(sample, files), ["media"])
    ids, logits = by_transformers(model, prepare, film, video)
    config = prepare.processor.config
    ours = torch.tensor(made.prefix + made.branches[0][0])
    assert torch.equal(ours, torch.where(ids == config.video_token_id, config.image_token_id, ids))
    assert int((ids == config.video_token_id).sum()) > 20
    films = Sample("f", "made", "train", (Medium("film", "0.png", (61, 97)),) * 2, questions=sample.questions[:0])
    asked = Question("Which side?", make_truth("open", "left"), "side")
    other = prepare.document(films, [asked], prepare.see(films, files), ["media"])
    text = prepare.document(Sample("t", "made", "train"), [asked], prepare.see(Sample("t", "made", "train"), {}), [])
    answer = len(made.branches[0][0])
    for documents in ([made, other, text], [other, text, made]):
        batch = prepare.collate(documents, 0)
        with torch.no_grad():
            got = model(batch)["logits_LV"]
        own = batch.answers_L == documents.index(made)
        torch.testing.assert_close(got[own], logits[-answer - 1 : -1], rtol=0, atol=2e-5)


def test_frames_may_be_shown_as_pictures_too(folder: Path, prepare: NativePrepare) -> None:
    sample, files, *_ = make_sample()
    plain = make_native_prepare(Processor(folder), {"clip": Views(max_slices=SHOWN)}, "", 1000)
    assert [list(p.see(sample, files).groups) for p in (prepare, plain)] == [[1, 1], [1, SHOWN]]
    blank = prepare.estimate(True)
    planned = blank.document(sample, sample.questions, blank.see(sample, files), ["media"])
    real = prepare.document(sample, sample.questions, prepare.see(sample, files), ["media"])
    assert len(planned) == len(real)
    assert prepare.picture(sample, files).shape == (61, 97, 3)


def test_a_family_without_video_tokens_refuses_the_keys_of_videos(tmp_path: Path) -> None:
    folder = save_tiny("gemma3", tmp_path)
    with pytest.raises(RecipeError, match=r"model.views.clip.video_fps: gemma3 shows videos as pictures"):
        make_native_prepare(Processor(folder), {"clip": Views(video_fps=1)}, "", 1000)
    with pytest.raises(RecipeError, match=r"model.processor.video: gemma3 shows videos as pictures"):
        Processor(folder, {"video": {"size": SIZE}})
