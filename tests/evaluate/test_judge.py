"""A judge beside the strict score: what it is asked, how its replies are read, and that nothing is asked twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from medvlm import cli
from medvlm.commands.evaluate import make_judge
from medvlm.compositions._open import open_judge
from medvlm.core.errors import RecipeError
from medvlm.core.judge_config import Rubric, Rubrics
from medvlm.core.protocols import Row
from medvlm.core.run import RunFolder
from medvlm.evaluate.compare import compare
from medvlm.evaluate.run import evaluate
from medvlm.evaluate.saved import rescore
from medvlm.io.shards import ShardSet
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.recipe.schema import Judge, Model
from tests.evaluate.toy import Noisy, is_noisy, write_shards
from tests.openai_server import Reply, ask_model, complete, serve

SAMPLES = 40
KEYS = [f"test{i:04d}" for i in range(SAMPLES)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("toy"), {"train": 20, "test": SAMPLES})


class ByRule:
    """Replies to the default prompts: full marks for equal texts, 2 of 5 or 0 for others; to `liver`, nothing that is a
    score. Afterwards it refuses."""

    def __init__(self, most: int = 10_000):
        self.prompts: list[str] = []
        self.most, self.lock = most, Lock()

    def __call__(self, body: dict[str, Any]) -> Reply:
        ((prompt,),) = ([part["text"] for part in message["content"]] for message in body["messages"])
        assert body["temperature"] == 0 and body["max_tokens"] == 99
        with self.lock:
            if len(self.prompts) == self.most:
                return 401, "no more"
            self.prompts.append(prompt)
        reference, answer = (
            prompt.split(name)[1].strip().splitlines()[0]
            for name in (("Reference:", "Text:") if "Text:" in prompt else ("Reference:", "Answer:"))
        )
        if answer == "liver":
            return complete("It is hard to say: 3 or 4.")
        best, other = (1, 0) if "Score: 1`" in prompt else (5, 2)
        return complete(f"They are compared.\n**Score: {best if reference == answer else other}**\n")


def evaluate_toy(
    shards: ShardSet, folder: Path, where: str, model: Noisy | None = None, limit: int = 99, **changes: Any
) -> list[Row]:
    judges = make_judge(Judge(model=where, max_new_tokens=limit, **changes), "cpu")  # type: ignore[arg-type]
    training, places = ([(split, i) for i in range(shards.count(split))] for split in ("train", "test"))
    return evaluate(
        [model or Noisy()],
        shards,
        dataset="toy",
        split="test",
        places=places,
        training=lambda: training,
        out=RunFolder(folder),
        protocols=("answers", "long_answers"),
        baselines=["blind", "majority"],
        judges=judges,
        resamples=10,
        say=say_to(folder),
    )


def say_to(folder: Path) -> Callable[[str], None]:
    def say(line: str) -> None:
        folder.mkdir(exist_ok=True)
        with (folder / "said.txt").open("a") as file:
            file.write(f"{line}\n")

    return say


def read_files(folder: Path) -> dict[str, bytes]:
    found = [path for path in (folder / "evaluate").rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def find_port(url: str) -> int:
    return int(url.rpartition(":")[2].removesuffix("/v1"))


def strip_port(files: dict[str, bytes], url: str) -> dict[str, bytes]:
    """Without the port of the server, which the identity of the judge holds."""
    port = str(find_port(url)).encode()
    return {name: content.replace(port, b"") for name, content in files.items() if "/judge/" not in name}


@pytest.fixture(scope="module")
def judged(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row], list[str], str]:
    folder, rule = tmp_path_factory.mktemp("judged"), ByRule()
    with serve(rule) as url:
        rows = evaluate_toy(shards, folder, url)
    return folder, rows, rule.prompts, url


def find(rows: list[Row], name: str) -> Row:
    (row,) = (row for row in rows if f"{row['task']} {row['metric']}" == name)
    return row


def test_judged_scores_stand_beside_the_strict_ones_and_leave_out_what_cannot_be_read(judged: Any) -> None:
    """The toy says `neither`, `perhaps` and `A fracture.` where it errs, and `liver`, to which the judge gives no
    score."""
    folder, rows, _, _ = judged
    wrong = {
        name: np.array([is_noisy(key, name) for key in KEYS]) for name in ("side", "place", "closed:hilum", "report")
    }
    closed = find(rows, "vqa judged_closed")
    assert closed["value"] == pytest.approx(1 - np.mean([wrong["side"], wrong["closed:hilum"]]), abs=1e-6)
    assert closed["value"] == find(rows, "vqa accuracy_closed")["value"] and closed["n"] == 2 * SAMPLES
    opened = find(rows, "vqa judged_open")
    assert (opened["value"], opened["n"], opened["unread"]) == (
        1.0,
        SAMPLES - wrong["place"].sum(),
        wrong["place"].sum(),
    )
    assert find(rows, "vqa accuracy_open")["n"] == SAMPLES
    # 2 on a scale from 1 to 5 is a quarter.
    long = find(rows, "report judged")
    assert (
        long["value"] == pytest.approx(np.where(wrong["report"], 0.25, 1.0).mean(), abs=1e-6) and "unread" not in long
    )
    truths = [json.loads(line)["truth"]["answer"] for line in (folder / "evaluate/long_answers.jsonl").open()]
    blind = np.mean([1.0 if truth == "4 nodules." else 0.25 for truth in truths])
    assert long["baselines"]["blind"] == pytest.approx(blind, abs=1e-6) and long["baselines"].keys() == {
        "blind",
        "majority",
    }
    unread = (folder / "said.txt").read_text()
    assert "the judge gave no readable score to" in unread and "One ends with 'It is hard to say: 3 or 4.'" in unread


def test_nothing_is_asked_twice_and_saved_answers_give_the_same_bytes(
    judged: Any, shards: ShardSet, tmp_path: Path
) -> None:
    whole, rows, prompts, url = judged
    folder = shutil.copytree(whole, tmp_path / "copy")
    assert len(set(prompts)) == len(prompts)
    before = read_files(folder)
    assert rescore(folder / "evaluate") == rows
    rule = ByRule()
    with serve(rule, port=find_port(url)) as same:
        assert same == url and evaluate_toy(shards, folder, url) == rows
        assert read_files(folder) == before and not rule.prompts
        # Another prompt is another judge; the replies to the other kinds of questions are kept.
        other = Rubric(prompt="Reference: {reference}\nAnswer: {answer}\n", scale=(1, 5))
        evaluate_toy(shards, folder, url, rubrics=Rubrics(open=other))
    assert rule.prompts and all(prompt.startswith("Reference: ") for prompt in rule.prompts)


def test_after_a_stop_only_what_is_missing_is_asked(
    judged: Any, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medvlm.evaluate.judge.AT_ONCE", 8)
    folder, rows, prompts, url = judged
    first, second = ByRule(most=14), ByRule()
    with serve(first) as one, pytest.raises(RecipeError, match="401"):
        evaluate_toy(shards, tmp_path, one)
    toy = Noisy()
    with serve(second, port=find_port(one)) as again:
        assert evaluate_toy(shards, tmp_path, again, toy) == rows
    assert strip_port(read_files(tmp_path), again) == strip_port(read_files(folder), url)
    assert (len(first.prompts), len(second.prompts)) == (14, len(prompts) - 8)  # one piece was kept
    assert not [asked for asked in toy.asked if asked[1] != "report"]


def test_models_are_compared_by_the_same_judge_only(judged: Any, shards: ShardSet, tmp_path: Path) -> None:
    folder, _, _, url = judged
    with serve(ByRule(), port=find_port(url)):
        evaluate_toy(shards, tmp_path / "same", url)
    with serve(ByRule()) as another:
        evaluate_toy(shards, tmp_path / "other", another)
    runs = {
        name: [path / "evaluate"]
        for name, path in (("a", folder), ("same", tmp_path / "same"), ("other", tmp_path / "other"))
    }
    found = {(each.model, each.metric): each for each in compare(runs)}
    assert (
        found["same", "judged"].difference == 0
        and found["same", "judged_open"].n == find(judged[1], "vqa judged_open")["n"]
    )
    assert ("other", "judged") not in found and ("other", "rouge_l") in found


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 4", 0.75),
        ("It is almost right.\n\n  **score:4** \n", 0.75),
        ("Score: 1", 0.0),
        ("Score: 0", None),
        ("Score: 6", None),
        ("Score: 4/5", None),
        ("Score: 4.5", None),
        ("Score: 4 or 5", None),
        ("Score: 4\nI hope this helps!", None),
        ("4", None),
        ("The score is 4", None),
        ("Score: N", None),
        ("Score: ٤", None),
        ("", None),
    ],
)
def test_a_reply_is_read_strictly(reply: str, score: float | None) -> None:
    assert Rubrics().open.read(reply) == score


def test_published_judges_can_be_stated_with_their_own_forms() -> None:
    """SURE-VQA asks for stars as JSON, MedEvalKit for 0 where the answer is right."""
    stars = Rubric(prompt="{reference} {answer} { score: <xxx> }", scale=(1, 5), reply="{ score: {score} }")
    assert stars.read("{score: 3}") == 0.5 and stars.read('{"score": 3}') is None
    tags = Rubric(prompt="{reference} {answer}", scale=(1, 0), reply="<judge>{score}</judge>")
    assert tags.read("<think>The same.</think>\n<judge>0</judge>") == 1 and tags.read("<judge>1</judge>") == 0


def test_braces_in_an_answer_are_not_filled_in() -> None:
    written = Rubric(prompt="{ q } {question} | {reference} | {answer}", scale=(0, 1)).write(
        "Q", "{answer}", "{reference}"
    )
    assert written == "{ q } Q | {answer} | {reference}"


@pytest.mark.parametrize(
    ("judge", "why"),
    [
        ({}, "evaluate.judge.model"),
        (
            {"model": "x", "rubrics": {"open": {"prompt": "{answer}", "scale": [1, 5]}}},
            "does not show the judge the reference",
        ),
        (
            {"model": "x", "rubrics": {"long": {"prompt": "{answer}{reference}", "scale": [1, 1]}}},
            "the best score are equal",
        ),
        (
            {"model": "x", "rubrics": {"closed": {"prompt": "{answer}{reference}", "scale": [0, 1], "reply": "N"}}},
            "expected one line with {score} in it once",
        ),
        ({"model": "x", "rubrics": {"vague": {}}}, "vague"),
    ],
)
def test_a_judge_that_cannot_work_is_refused(
    judge: dict[str, Any], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(tmp_path), "--on", "phantom:test", f"evaluate.judge={json.dumps(judge)}"]
    assert cli.main(words) == 2
    assert why in capsys.readouterr().err


def test_texts_leave_this_machine_only_if_the_recipe_allows_it() -> None:
    with pytest.raises(
        RecipeError, match=r"evaluate\.judge\.model\.composition\.url: far is another machine, .* of a judge the"
    ):
        make_judge(Judge(model="http://far/v1"), "cpu")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"evaluate\.judge\.model: nowhere cannot be read"):
        make_judge(Judge(model="nowhere"), "cpu")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["language", "images"])
def test_a_real_model_judges_by_folder_and_through_a_server_alike(kind: str, shards: ShardSet, tmp_path: Path) -> None:
    """Random weights reply with nonsense, which is counted and never a score."""
    (save_tiny_language if kind == "language" else partial(save_tiny, "qwen3_vl"))(tmp_path / "model")
    by_folder = evaluate_toy(shards, tmp_path / "a", str(tmp_path / "model"), limit=9)
    model = open_judge(Model(pretrained=str(tmp_path / "model")), "cpu", 9)
    with serve(ask_model(model, 9)) as url:
        by_server = evaluate_toy(shards, tmp_path / "b", url, limit=9)
    assert by_folder == by_server
    assert not [row for row in by_folder if row["metric"].startswith("judged")]
    replies = [read_replies(tmp_path / name) for name in "ab"]
    assert replies[0] == replies[1] and len({reply for *_, reply in replies[0]}) > 3
    assert "gave no readable score to" in (tmp_path / "a/said.txt").read_text()


def read_replies(folder: Path) -> list[tuple[str, str, str]]:
    (path,) = (folder / "evaluate/judge").iterdir()
    entries = [json.loads(line) for line in path.open()]
    return [(entry["reference"], entry["answer"], entry["reply"]) for entry in entries]


def save_tiny_language(folder: Path) -> None:
    """A language model without images, with the tokenizer and template of a tiny one that has some."""
    save_tiny("qwen3_vl", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    shutil.rmtree(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=len(tokenizer), initializer_range=0.5, eos_token_id=tokenizer.eos_token_id)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    tokenizer.save_pretrained(folder)
