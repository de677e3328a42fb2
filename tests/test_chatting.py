"""`medvlm chat` and `medvlm embed`: somebody's own files, by a stock folder, by one of ours, by shards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medvlm.cli import EXIT_USER, main
from medvlm.commands.chat import talk
from medvlm.commands.files import read_files
from medvlm.compositions._outside import show
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.run import RunFolder
from medvlm.core.sample import Medium, Sample
from medvlm.export.proof import parity
from medvlm.export.run import export
from medvlm.io.shards import ShardWriter
from tests.export.conftest import recipe_of, trained_of, unproven, with_film
from tests.export.test_custom import VOLUME
from tests.io.dicom.series import save, slices


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports of a model that answers and of one that embeds, as a stock folder and as one of ours; files of several
    kinds."""
    folder = tmp_path_factory.mktemp("own")
    run = RunFolder(folder / "runs" / "tiny")
    run.root.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "prove", unproven)
        composed, dual, both = (
            recipe_of({}, {}),
            recipe_of({}, None),
            recipe_of({}, {}, ct={**VOLUME, "serves": ["smear"]}),
        )
        both = with_film(both, {"serves": ["film"]})
        for name, recipe, target in (
            ("llava", composed, "stock"),
            ("adapter", composed, "adapter"),
            ("ours", both, "custom"),
            ("dual", dual, "stock"),
            ("ours-dual", dual, "custom"),
        ):
            export(run, folder / name, trained_of(recipe), target)
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 256, (40, 60), dtype=np.uint8)).save(folder / "film.png")
    np.save(folder / "deep.npy", rng.integers(0, 4000, (50, 40), dtype=np.uint16))
    return {"folder": folder, **{p.name: p for p in folder.iterdir()}}


def test_a_stock_folder_answers_as_transformers_does(made: dict[str, Path]) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    question = "What does the image show?"
    answer = talk(str(made["llava"]), [made["film.png"]], max_new_tokens=6)(question)
    processor, model = (
        AutoProcessor.from_pretrained(made["llava"]),
        AutoModelForImageTextToText.from_pretrained(made["llava"]),
    )
    chat = [
        {
            "role": "user",
            "content": [{"type": "image", "image": Image.open(made["film.png"])}, {"type": "text", "text": question}],
        }
    ]
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    out = model.generate(**inputs, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    assert answer == processor.decode(out, skip_special_tokens=True).strip() and answer
    # Adapters on their base are the same model.
    assert talk(str(made["adapter"]), [made["film.png"]], max_new_tokens=6)(question) == answer


def test_a_folder_of_ours_takes_films_and_volumes(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(slices(size=(6, 20, 24)), tmp_path / "series")
    model = str(made["ours"])
    assert (
        main(
            [
                "chat",
                model,
                str(tmp_path / "series"),
                str(made["film.png"]),
                "--question",
                "How many?",
                "--question",
                "Where?",
            ]
        )
        == 0
    )
    assert len(capsys.readouterr().out.splitlines()) >= 2
    sample, files = read_files([tmp_path / "series", made["deep.npy"]], lambda axes: "ct" if axes == 3 else "film")
    assert (
        [m.kind for m in sample.media] == ["ct", "film"]
        and sample.media[0].unit == "HU"
        and sample.media[0].spacing_mm is not None
    )
    assert list(files) == [m.member for m in sample.media]


def test_a_model_of_pictures_is_shown_slices(made: dict[str, Path], tmp_path: Path) -> None:
    save(slices(size=(20, 24, 30)), tmp_path / "series")
    sample, files = read_files([tmp_path / "series"], lambda axes: "own")
    shown = show(sample.media[0], files[sample.media[0].member])
    assert len(shown) == 16 and all(image.size == (30, 24) and image.mode == "RGB" for image in shown)
    assert talk(str(made["llava"]), [made["film.png"], made["film.png"]], max_new_tokens=2)("Which?") is not None


def test_what_cannot_be_opened_is_named(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"none\.png: there is no such file"):
        talk(str(made["llava"]), [tmp_path / "none.png"])
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.png: "):
        talk(str(made["llava"]), [tmp_path / "bad.png"])
    with pytest.raises(RecipeError, match="can embed images but not answer questions"):
        talk(str(made["ours-dual"]), [made["film.png"]])
    with pytest.raises(DataError, match=r"--kind pet: no encoder serves it \(its encoders serve film, smear\)"):
        talk(str(made["ours"]), [made["film.png"]], kind="pet")
    with pytest.raises(RecipeError, match="neither a run nor a vision-language model"):
        talk(str(tmp_path), [made["film.png"]])
    assert main(["chat", str(tmp_path / "nowhere"), "--question", "?"]) == EXIT_USER


def rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    assert table.column_names == ["key", "source", "medium", "embedding"]
    return table.to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["llava", "ours"])
@pytest.mark.parametrize("question", ["Where?\udcff", "\udce9t\udce9", "\ud800"])
def test_a_question_that_is_not_unicode_is_refused(made: dict[str, Path], name: str, question: str) -> None:
    ask = talk(str(made[name]), [made["film.png"]], max_new_tokens=2)
    with pytest.raises(DataError, match="bytes that are not UTF-8"):
        ask(question)


def test_films_are_embedded_alike_by_stock_and_ours(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film, shards = str(made["film.png"]), tmp_path / "shards"
    with ShardWriter(shards, "test") as writer:
        writer.write(
            Sample("k1", "films", "test", (Medium("film", "0.png", (40, 60)),)),
            {"0.png": made["film.png"].read_bytes()},
        )
    assert main(["embed", str(made["ours-dual"]), film, str(shards), "--to", str(tmp_path / "ours.parquet")]) == 0
    assert "2 embeddings" in capsys.readouterr().out
    assert main(["embed", str(made["dual"]), film, str(shards), "--to", str(tmp_path / "stock.parquet")]) == 0
    ours, stock = rows(tmp_path / "ours.parquet"), rows(tmp_path / "stock.parquet")
    assert (
        [(r["key"], r["source"], r["medium"]) for r in ours]
        == [(r["key"], r["source"], r["medium"]) for r in stock]
        == [(film, "", 0), ("k1", "films", 0)]
    )
    found, wanted = torch.tensor([r["embedding"] for r in ours]), torch.tensor([r["embedding"] for r in stock])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2))


def test_a_file_whose_name_is_not_utf8_is_embedded(made: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(made["film.png"], tmp_path / "caf\udce9.png")
    words = ["embed", str(made["dual"]), str(tmp_path / "caf\udce9.png"), "--to", str(tmp_path / "found.parquet")]
    assert main(words) == 0
    assert [Path(row["key"]).name for row in rows(tmp_path / "found.parquet")] == ["caf\\udce9.png"]


def test_a_file_of_embeddings_is_whole_or_not_there(made: dict[str, Path], tmp_path: Path) -> None:
    assert (
        main(
            [
                "embed",
                str(made["ours-dual"]),
                str(made["film.png"]),
                str(tmp_path / "none.png"),
                "--to",
                str(tmp_path / "out.parquet"),
            ]
        )
        == EXIT_USER
    )
    assert not list(tmp_path.iterdir())
