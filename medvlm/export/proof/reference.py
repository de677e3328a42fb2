"""Writes the inputs and outputs of a trained model, for the process of the parity proof that loads its export.

They are computed by this package's own data path and model, with adapters not yet folded in, in float32 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvlm.core.contracts import Outputs, Preprocess
from medvlm.core.run import write_json
from medvlm.core.sample import Medium
from medvlm.data.dialogue import Dialogue, TokenSequence
from medvlm.data.rows import collate
from medvlm.data.transforms import MediaTransform
from medvlm.export.trained import Trained
from medvlm.models.decoding import Labelled, make_box_prompt
from medvlm.models.generate import find_end_ids, generate
from medvlm.models.parts import encode, evaluating
from medvlm.models.vlm import VLM

MAX_NEW_TOKENS = 24
SIZES = ((61, 97), (131, 64), (355, 517, 3))
"""Height, width and, for color, channels. None is square or a multiple of a patch."""
VOLUME = (17, 61, 97)
QUESTIONS = ("What does the image show?", "Is there a finding, and on which side?", "How many are there?")
TEXTS = ("A nodule in the left upper zone.", "No finding.", "Three opacities, the largest of 12 mm.")

# Texts that tokenizers and templates often get wrong: line breaks, digits, units, accents, quotes, braces, double
# spaces.
SAID = (
    ("What does the image show?", "A nodule in the left upper zone."),
    ("Describe the findings.\nBe brief.", "No finding.\n\nNo comparison."),
    ("How many are there?  Count them.", "12"),
    ("Where is it?", "[103, 20, 877, 1000]"),
    ("Größe in mm²?", "≥ 12.5 mm, nicht größer als 3 × 4 cm"),
    ('Is "normal" {right}? <b>', "yes"),
    ("胸部に異常はありますか", "いいえ"),
)


def make_images(seed: int = 0) -> list[np.ndarray]:
    """uint8 pictures of SIZES. They are coarse noise, so that wrong resizing or a wrong order of axes is visible."""
    rng = np.random.default_rng(seed)
    made = []
    for height, width, *channels in SIZES:
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, *channels), dtype=np.uint8)
        made.append(np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width]))
    return made


def make_media(preprocess: Preprocess, seed: int = 0) -> list[np.ndarray]:
    """The pictures (grey ones only, if there are several windows), or one uint16 volume [D, H, W] for an encoder of
    volumes."""
    if len(preprocess.size) == 2:
        return [image for image in make_images(seed) if image.ndim == 2 or not preprocess.windows]
    return [np.random.default_rng(seed).integers(0, 4096, VOLUME, dtype=np.uint16)]


def make_pixels(
    preprocess: Mapping[str, Preprocess], folder: Path
) -> tuple[dict[tuple[str, int], torch.Tensor], dict[tuple[str, int], str]]:
    """(encoder, index) -> pixels from the data path, and (encoder, index) -> name of the PNG written for the other
    process. Volumes have no PNG."""
    from PIL import Image

    pixels, pictures = {}, {}
    for name, before in preprocess.items():
        transform = MediaTransform(before)
        for i, array in enumerate(make_media(before)):
            stored: Any = array
            if len(before.size) == 2:
                pictures[name, i] = f"{name}.{i}.png"
                Image.fromarray(array).save(folder / pictures[name, i])
                stored = (folder / pictures[name, i]).read_bytes()
            size = array.shape[: len(before.size)]
            # A spacing of 3/4 of the declared one, so that the medium is resampled, and cropped or padded.
            spacing_mm = tuple(0.75 * mm for mm in before.spacing_mm) if before.spacing_mm else None
            medium = Medium("proof", pictures.get((name, i), "volume"), size, spacing_mm)
            seen = transform(stored, medium.member, medium)[0]
            # A stack is filled with the same image, as in a sample with a single film.
            pixels[name, i] = torch.stack([seen] * before.stack, 1) if before.stack > 1 else seen
    return pixels, pictures


def write_answers(trained: Trained, folder: Path) -> None:
    """Writes token ids, logits and greedy answers of a model that answers, and the token ids of whole conversations in
    training."""
    model, tokenizer = trained.model, trained.tokenizer
    dialogue = Dialogue(tokenizer, tokenizer.convert_ids_to_tokens(model.image_token_id))
    pixels, pictures = make_pixels(trained.preprocess, folder)
    first, *_, last = [*pixels, *pixels]
    asked = [([m], QUESTIONS[i % len(QUESTIONS)]) for i, m in enumerate(pixels)]
    asked += [([], "What is an image?"), ([last, first], "What is the difference?")]
    room = getattr(model.language.config, "max_position_embeddings", None) or 1 << 30
    cases: list[dict[str, Any]] = []
    tensors: dict[str, torch.Tensor] = {}
    effect = None
    with evaluating(model):
        counts = {
            name: model.connectors[name](encode(model.encoders[name], p[None], name).patches).shape[1]
            for (name, _), p in pixels.items()
        }
        for media, question in asked:
            ids = dialogue.turn(question, [counts[name] for name, _ in media], None).prompt
            if len(media) > 1 and len(ids) + MAX_NEW_TOKENS > room:
                continue  # two images do not fit the language model's context
            shown = [(name, pixels[name, i]) for name, i in media]
            logits_TV = _compute_logits(model, ids, shown, counts, tokenizer.pad_token_id)
            if effect is None:
                blank = [(name, torch.zeros_like(p)) for name, p in shown]
                effect = (
                    (_compute_logits(model, ids, blank, counts, tokenizer.pad_token_id) - logits_TV)[-1]
                    .abs()
                    .max()
                    .item()
                )
            answer = _generate_answer(model, ids, shown, counts, tokenizer)
            tensors[f"logits.{len(cases)}"] = logits_TV.contiguous()
            text = tokenizer.decode(answer, skip_special_tokens=True)
            cases.append(
                {"images": [pictures.get(m, "") for m in media], "question": question, "ids": ids, "text": text}
            )
    expected = {"kind": "answers", "max_new_tokens": MAX_NEW_TOKENS, "image_effect": effect, "cases": cases}
    save(folder, {**expected, "golden": make_golden(dialogue, counts, pictures)}, tensors)


def make_golden(
    dialogue: Dialogue, counts: Mapping[str, int], pictures: Mapping[tuple[str, int], str]
) -> list[dict[str, Any]]:
    """20 conversations with 0 to 3 pictures each, and the token ids of question and answer in training."""
    shown, made = list(pictures), []
    for i in range(20):
        question, said = SAID[i % len(SAID)]
        media = [shown[(i + k) % len(shown)] for k in range(i % 4 if shown else 0)]
        turn = dialogue.turn(question, [counts[name] for name, _ in media], said)
        made.append(
            {
                "images": [pictures[m] for m in media],
                "question": question,
                "answer": said,
                "prompt": turn.prompt,
                "ids": turn.prompt + turn.answer,
            }
        )
    return made


def write_embeddings(trained: Trained, folder: Path) -> None:
    """Writes a dual encoder's unit embeddings of pictures and texts, its scale and its bias."""
    model, tokenizer = trained.model, trained.tokenizer
    pixels, pictures = make_pixels(trained.preprocess, folder)
    read = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    mask = read.get("attention_mask", torch.ones_like(read["input_ids"]))
    scale = model.heads["scale"]
    with evaluating(model):
        tensors = {
            "images": torch.cat([model.embed_media({name: p[None]}) for (name, _), p in pixels.items()]),
            "texts": model.embed_texts(read["input_ids"], mask),
            "scale": scale.log_scale.detach().exp(),
            **({} if scale.bias is None else {"bias": scale.bias.detach()}),
        }
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    stacked = {f"pixels.{i}": stored[None] for i, stored in enumerate(pixels.values())}
    before, *_ = trained.preprocess.values()
    expected = {"kind": "embeddings", "std": list(before.std), "count": len(pixels)}
    save(
        folder,
        {**expected, "images": list(pictures.values()), "texts": list(TEXTS), "ids": ids},
        {**tensors, **stacked},
    )


def write_features(
    trained: Trained, folder: Path, compute: Callable[[Any, torch.Tensor], dict[str, torch.Tensor]]
) -> None:
    """Writes the outputs of one encoder for the proof's media. compute: (encoder, pixels [N, ...]) -> named tensors."""
    name = trained.encoder
    pixels, pictures = make_pixels({name: trained.preprocess[name]}, folder)
    encoder = trained.model.encoders[name]
    tensors: dict[str, torch.Tensor] = {}
    with evaluating(trained.model):
        for i, stored in enumerate(pixels.values()):
            made = compute(encoder, stored[None])
            tensors |= {f"pixels.{i}": stored[None], **{f"{key}.{i}": tensor for key, tensor in made.items()}}
    before = trained.preprocess[name]
    save(
        folder,
        {
            "kind": "features",
            "images": list(pictures.values()),
            "names": list(made),
            "std": list(before.std),
            "count": len(pixels),
        },
        tensors,
    )


def write_decodings(trained: Trained, folder: Path) -> None:
    """Writes the logits of every decoder for the media of its encoder; of one that takes prompts, for a box."""
    pixels, pictures = make_pixels(trained.preprocess, folder)
    tensors: dict[str, torch.Tensor] = {}
    with evaluating(trained.model):
        for (encoder, number), stored in pixels.items():
            own = [name for name, read in trained.model.reads.items() if read == encoder]
            rows = {name: torch.tensor([0]) for name in own}
            takes = [name for name in own if getattr(trained.model.decoders[name], "TAKES_PROMPTS", False)]
            box = make_box_prompt(stored.device, stored.shape[-1] / 2, stored.shape[-2] / 2)
            outputs = trained.model(Labelled({encoder: stored[None]}, rows, prompts=dict.fromkeys(takes, box)))
            tensors |= {f"{name}.{number}": outputs[f"decoders.{name}"] for name in own}
    save(folder, {"kind": "decodings", "images": list(pictures.values()), "count": len(pixels)}, tensors)


def write_vectors(trained: Trained, folder: Path) -> None:
    """Writes the features of every encoder."""
    pixels, pictures = make_pixels(trained.preprocess, folder)
    tensors: dict[str, torch.Tensor] = {}
    with evaluating(trained.model):
        for (encoder, number), stored in pixels.items():
            features = encode(trained.model.encoders[encoder], stored[None], encoder)
            tensors |= {f"patches.{encoder}.{number}": features.patches, f"pooled.{encoder}.{number}": features.pooled}
    save(folder, {"kind": "vectors", "images": list(pictures.values()), "count": len(pixels)}, tensors)


WRITERS = {
    "answer": write_answers,
    "embed": write_embeddings,
    "decode": write_decodings,
    "represent": write_vectors,
}
"""What a model can do -> the function that writes its reference."""


def write(can: Collection[str], trained: Trained, folder: Path) -> None:
    """Writes what a whole model computes. can: the CAN of its composition."""
    next(write for need, write in WRITERS.items() if need in can)(trained, folder)


def save(folder: Path, expected: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    write_json(folder / "reference.json", expected)
    torch.save(tensors, folder / "reference.pt")


def _compute_logits(
    model: VLM, ids: list[int], media: list[tuple[str, torch.Tensor]], counts: Mapping[str, int], pad_id: int
) -> torch.Tensor:
    """Logits [T, V] at every position. A model returns logits only where the next token is trained, so all tokens after
    the first are marked as trained. A pad token is added at the end, so that the last id has a next token. A decoder
    that an encoder precedes writes the words of the prompt."""
    if model.has_encoder:
        words = [token for token in ids if token not in model.barred_ids]
        document = TokenSequence("proof", ids, [([*words, pad_id], 0)], media)
    else:
        document = TokenSequence("proof", ids[:1], [([*ids[1:], pad_id], 0)], media)
    outputs: Outputs = model(collate([document], counts, pad_id))
    return outputs["logits_LV"]


def _generate_answer(
    model: VLM, ids: list[int], media: list[tuple[str, torch.Tensor]], counts: Mapping[str, int], tokenizer: Any
) -> list[int]:
    batch = collate([TokenSequence("proof", ids, [], media)], counts, tokenizer.pad_token_id, pack=False)
    return generate(model, batch, max_new_tokens=MAX_NEW_TOKENS, end_ids=find_end_ids(model, tokenizer))[0]
