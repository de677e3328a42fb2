"""`medvlm chat`: questions about somebody's own files to a run, an exported folder, or any vision-language model of
transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvlm.core.errors import DataError, RecipeError
from medvlm.core.run import RunFolder
from medvlm.core.sample import Medium, Question, make_truth
from medvlm.own_files import sample_of

if TYPE_CHECKING:
    from medvlm.evaluate.answerer import RunAnswerer

Talk = Callable[[str], str]


def talk(model: str, paths: Sequence[Path], kind: str = "", stage: str = "", max_new_tokens: int = 256) -> Talk:
    """A function from question to greedy answer. Each question is asked by itself, about all the files.

    model: a run's folder, an exported folder, or a folder or hub id of transformers. kind: what the files are, of the
    kinds that the model has encoders for; by default the first that takes films or volumes. Raises UserError for what
    cannot be opened."""
    folder = Path(model)
    if RunFolder(folder).recipe.is_file():
        return _ours(answerer(folder, stage, max_new_tokens), paths, kind)
    return _stock(model, paths, max_new_tokens)


def answerer(folder: Path, stage: str = "", max_new_tokens: int = 256) -> RunAnswerer:
    """A run, or an export of `target: custom`, on the GPU where there is one."""
    import torch

    from medvlm.evaluate.answerer import load_run as load_answerer
    from medvlm.exporting import answerer_of, is_exported
    from medvlm.recipe import load_run

    recipe, device = load_run(folder).recipe, "cuda" if torch.cuda.is_available() else "cpu"
    if is_exported(folder):
        return answerer_of(recipe, folder, max_new_tokens, device)
    return load_answerer(recipe, RunFolder(folder), max_new_tokens, stage, device)


def kind_of(prepare: Any, asked: str) -> Callable[[int], str]:
    """Axes of a medium -> the kind that an encoder for so many axes serves; a ready model takes any. Raises DataError
    where none does."""

    def chosen(axes: int) -> str:
        if not prepare.transforms:
            return asked or "own"
        fitting = [
            kind for kind, name in prepare.routes.items() if len(prepare.transforms[name].preprocess.size) == axes
        ]
        if asked and asked not in prepare.routes:
            raise DataError(f"--kind {asked}: no encoder serves it (served are {', '.join(prepare.routes)})")
        if not asked and not fitting:
            raise DataError(
                f"no encoder of this model takes {'volumes' if axes == 3 else 'films'} (served are"
                f" {', '.join(prepare.routes)})"
            )
        return asked or fitting[0]

    return chosen


def _ours(answers: RunAnswerer, paths: Sequence[Path], kind: str) -> Talk:
    from medvlm.evaluate.protocol import Ask

    if not answers.can_answer:
        raise RecipeError("this model embeds and does not answer; try medvlm embed")
    sample, files = sample_of(paths, kind_of(answers.prepare, kind))

    def ask(question: str) -> str:
        asked = Ask(sample, files, Question(question, make_truth("open"), "own"), "media" if paths else "none")
        return answers.answer([asked])[0]

    return ask


def _stock(model: str, paths: Sequence[Path], max_new_tokens: int) -> Talk:
    import torch

    processor, vlm = _loaded(model)
    sample, files = sample_of(paths, lambda axes: "own")
    images = [picture for medium in sample.media for picture in pictures(medium, files[medium.member])]
    vlm.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def ask(question: str) -> str:
        content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(vlm.device, vlm.dtype)
        with torch.no_grad():
            out = vlm.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        return str(processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()

    return ask


def _loaded(model: str) -> tuple[Any, Any]:
    """Processor and model, adapters on their base. Raises RecipeError for what transformers cannot open as a
    vision-language model."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder, adapters = Path(model), Path(model) / "adapter_config.json"
    base = model
    if adapters.is_file():
        base = (
            str(folder / "base")
            if (folder / "base").is_dir()
            else str(json.loads(adapters.read_text())["base_model_name_or_path"])
        )
    try:
        processor, vlm = (
            AutoProcessor.from_pretrained(base),
            AutoModelForImageTextToText.from_pretrained(base, dtype="auto"),
        )
    except (OSError, ValueError) as reason:
        raise RecipeError(
            f"{model}: neither a run nor a vision-language model that transformers opens"
            f" ({str(reason).splitlines()[0]})"
        ) from None
    if adapters.is_file():
        from peft import PeftModel

        vlm = PeftModel.from_pretrained(vlm, folder)
    return processor, vlm


def pictures(medium: Medium, stored: Any) -> list[Any]:
    """8-bit pictures for models that take nothing else: a film, or slices of a volume; windowed by its own percentiles
    where it has more bits."""
    from PIL import Image

    from medvlm.data.views import Views
    from medvlm.data.views import pictures as shown
    from medvlm.io.images import decode

    array = decode(stored, medium.member) if isinstance(stored, bytes) else stored
    views = Views(percentiles=None if array.dtype == "uint8" else (0.5, 99.5))
    return [Image.fromarray(picture) for picture in shown(array, medium, views)]
