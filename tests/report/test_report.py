"""The report of a run: its texts, its drawings, and its notes on what is missing."""

import json
import re

import pytest

from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.report.results import describe_verdict
from medvlm.report.run import write_report


def find_section(page, anchor):
    return next(s for s in page.all("section") if s.attributes["id"] == anchor)


def find_data(page):
    return [e for e in page.all("script") if e.attributes.get("type") == "application/json"]


def rows(table):
    return [[cell.words() for cell in tr.children] for tr in table.all("tbody")[0].all("tr")]


def test_a_finished_run_has_every_section(run, parse):
    page = parse(write_report(run))
    assert [s.attributes["id"] for s in page.all("section")] == [
        "headline",
        "made",
        "curves",
        "results",
        "answers",
        "all-answers",
        "proof",
        "data",
        "settings",
        "lineage",
    ]
    assert page.all("h1")[0].text == "phantom"
    assert "5 of 5 stages finished; evaluated on held-out samples" in page.words()


def test_nothing_is_loaded_from_elsewhere(run, parse):
    page = parse(write_report(run))
    sources = [e.attributes["src"] for tag in ("img", "iframe", "source") for e in page.all(tag)]
    assert len(sources) == 12 and all(s.startswith("data:image/png;base64,") for s in sources)
    scripts = [e.attributes for e in page.all("script")]
    assert scripts.count({}) == 1 and all(each in ({}, {"type": "application/json"}) for each in scripts)
    assert not page.all("link")
    assert {a.attributes["href"] for a in page.all("a") if not a.attributes["href"].startswith("#")} == {
        "https://creativecommons.org/publicdomain/zero/1.0/",
        "https://example.org/cells",
    }


def test_no_path_reaches_the_page(run):
    page = write_report(run).read_text()
    assert "/home/someone" not in page and str(run.root.parent) not in page
    assert "transformers, clip-tiny (a local folder)" in page and "emilyalsentzer/Bio_ClinicalBERT" in page


def test_the_strictest_licence_stands_on_top(run, parse):
    facts = {
        d.children[0].text: d.children[1].words()
        for d in parse(write_report(run)).all("header")[0].all("dl", "facts")[0].children
    }
    assert facts["strictest licence"] == "non-commercial only, share alike"
    assert facts["training samples"] == "4,205"
    assert facts["steps"] == "1,920"
    assert facts["parameters"] == "2.27 M"


def test_a_card_without_a_licence_makes_the_whole_unclear(run, parse):
    lineage = json.loads(run.lineage.read_text())
    del lineage["sources"]["cells"]["card"]["licence"]
    run.lineage.write_text(json.dumps(lineage))
    assert "The card of cells has no readable licence" in find_section(parse(write_report(run)), "data").words()


def test_a_split_by_image_is_said_to_be_one(run, parse):
    assert "Split by image, not by patient: cells" in parse(write_report(run)).all("div", "notes")[0].words()


def test_stages_stand_in_the_order_of_the_recipe(run, parse):
    table = find_section(parse(write_report(run)), "made").all("table")[0]
    assert [r[:4] for r in rows(table)] == [
        ["pair", "contrastive", "encoders.film, text", "phantom"],
        ["read", "supervised", "language", "phantom"],
        ["align", "supervised", "connectors", "phantom"],
        ["instruct", "supervised", "connectors, lora", "cells 1, phantom 3"],
        ["grpo", "grpo", "lora", "phantom"],
    ]


def test_reward_terms_share_one_chart(run, parse):
    stages = find_section(parse(write_report(run)), "curves").all("div", "stage")
    charts = [f.all("strong")[0].text for f in stages[-1].all("figure")]
    assert charts == ["loss", "reward", "kl", "gradient norm", "learning rate", "samples/s", "tokens/s"]
    reward = stages[-1].all("figure")[1]
    assert [e.words().split()[0] for e in reward.all("span", "legend")[0].children] == ["reward", "choice", "format"]


def test_the_sources_of_a_mix_share_a_chart_of_their_losses_and_one_of_their_epochs(run, parse):
    stages = find_section(parse(write_report(run)), "curves").all("div", "stage")
    charts = [[f.all("strong")[0].text for f in stage.all("figure")] for stage in stages]
    assert [title for title in charts[3] if "source" in title] == ["loss by source", "epochs by source"]
    assert not any("source" in title for i in (0, 1, 2, 4) for title in charts[i])
    losses = next(f for f in stages[3].all("figure") if f.all("strong")[0].text == "loss by source")
    assert [e.words().split()[0] for e in losses.all("span", "legend")[0].children] == ["phantom", "cells"]


def test_the_proof_shows_what_moved_and_what_stayed(run, parse):
    table = rows(find_section(parse(write_report(run)), "proof").all("table")[0])
    film = next(r for r in table if r[0] == "encoders.film")
    assert "changed" in film[1] and film[2].startswith("frozen") and film[2] == film[5]


def test_a_group_that_did_not_move_is_a_warning(run, parse):
    path = run.stage("align") / "stage.json"
    record = json.loads(path.read_text())
    record["trains"]["connectors.film"]["moved"] = False
    path.write_text(json.dumps(record))
    page = parse(write_report(run))
    assert "without proof that the weights changed: connectors.film in align" in page.all("div", "notes")[0].words()
    assert "did not change" in find_section(page, "proof").words()


def test_what_each_stage_was_shown_stands_with_a_warning_of_small_boxes(run, parse):
    """Two stages that were shown the same share a block; runs of earlier versions have no such record."""
    shown = {"pair": ["film: a in the file"], "align": ["film: a in the file"], "instruct": ["film: b", "warning: c"]}
    for name, lines in shown.items():
        path = run.stage(name) / "stage.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "scales": lines}))
    part = find_section(parse(write_report(run)), "shown")
    assert [h.text for h in part.all("h3")] == ["pair, align", "instruct"]
    assert [li.text for li in part.all("li")] == ["film: a in the file", "film: b", "c"]
    assert [li.text for notes in part.all("div", "notes") for li in notes.all("li")] == ["c"]


def test_results_stand_with_interval_n_and_baselines(run, parse):
    table = find_section(parse(write_report(run)), "results").all("table")[0]
    head = [th.text for th in table.all("thead")[0].all("th")]
    assert head == [
        "data",
        "task",
        "metric",
        "value",
        "95 % interval",
        "n",
        "blind",
        "shuffled",
        "majority",
        "chance",
        "paired difference",
    ]
    assert rows(table)[0] == [
        "phantom:test",
        "vqa",
        "accuracy ↑",
        "0.93",
        "0.91 to 0.95",
        "812",
        "0.36",
        "0.35",
        "0.36",
        "–",
        "+0.57 majority: 0.53 to 0.61",
    ]
    assert [r[2] for r in rows(table) if r[1] == "count"] == [
        "mean absolute error ↓",
        "mean absolute error ↓",
        "unreadable",
    ]
    folded = find_section(parse(write_report(run)), "results").all("details")[0]
    assert [r[2] for r in rows(folded.all("table")[0])] == ["accuracy, side ↑", "accuracy, size ↑"]


def test_the_headline_leaves_parts_of_a_metric_to_the_table(run, parse):
    names = [b.all("b")[0].text for b in find_section(parse(write_report(run)), "headline").all("div", "bar-name")]
    assert "Questions: accuracy" in names and not any("side" in n for n in names)


TASK_OF = {"accuracy": "vqa", "mae": "count"}


@pytest.mark.parametrize(
    ("metric", "difference", "ci", "says"),
    [
        ("accuracy", 0.57, [0.53, 0.61], "✓ better than majority by 0.57 (0.53 to 0.61)"),
        ("accuracy", -0.2, [-0.3, -0.1], "✗ worse than majority by 0.20 (0.10 to 0.30)"),
        (
            "accuracy",
            0.1,
            [-0.1, 0.3],
            "≈ no significant difference: 0.10 better than majority, interval of the gain −0.10 to 0.30",
        ),
        ("mae", -0.9, [-1.2, -0.6], "✓ better than majority by 0.90 (0.60 to 1.20)"),
        ("mae", 0.9, [0.6, 1.2], "✗ worse than majority by 0.90 (0.60 to 1.20)"),
        ("accuracy", 0.1, None, "0.10 better than majority, without an interval: no conclusion"),
        (
            "accuracy",
            0.0,
            [-0.1, 0.1],
            "≈ no significant difference: equal to majority, interval of the gain −0.10 to 0.10",
        ),
    ],
)
def test_a_verdict_claims_no_more_than_the_interval(metric, difference, ci, says, parse):
    paired = {"against": "majority", "difference": difference, "ci": ci}
    assert (
        parse(
            describe_verdict(
                {
                    "task": TASK_OF[metric],
                    "metric": metric,
                    "value": 1.0,
                    "baselines": {"majority": 0.5},
                    "paired": paired,
                }
            )
        ).words()
        == says
    )


@pytest.mark.parametrize(
    ("difference", "ci", "says"),
    [
        (
            0.1,
            [0.02, 0.2],
            "better than majority, interval of the gain 0.02 to 0.20, but not significantly better than every baseline",
        ),
        (
            -0.1,
            [-0.2, -0.02],
            "worse than majority, interval of the gain −0.20 to −0.02, not significant with 2 baselines compared",
        ),
    ],
)
def test_a_difference_from_one_baseline_of_several_is_no_verdict(difference, ci, says, parse):
    paired = {"against": "majority", "difference": difference, "ci": ci, "verdict": ""}
    row = {"task": "vqa", "metric": "accuracy", "value": 0.6, "baselines": {"majority": 0.5, "blind": 0.5}}
    assert parse(describe_verdict({**row, "paired": paired})).words().endswith(says)


def test_a_result_without_baselines_is_said_to_have_none(parse):
    assert (
        parse(describe_verdict({"metric": "accuracy", "value": 1.0, "baselines": {}, "paired": None})).words()
        == "no baseline was measured"
    )


def test_gallery_draws_truth_and_answer_where_they_are(run, parse):
    """The run's answers are [222, 318, 431, 540], the true box is [210, 305, 420, 515], on a scale of 1000."""
    card = find_section(parse(write_report(run)), "answers").all("article")[0]
    overlay = card.all("div", "canvas")[0].all("svg")[0]
    assert overlay.attributes["viewbox"] == "0 0 1000 1000"
    where = [
        [r.attributes[k] for k in ("x", "y", "width", "height")]
        for kind in ("b-truth", "b-answer")
        for r in overlay.all("rect", kind)
    ]
    assert where == [["210", "305", "210", "210"], ["222", "318", "209", "222"]]
    said = [dd.words() for dd in card.all("div", "qa")[1].all("dl")[0].all("dd")]
    assert said == ["[222, 318, 431, 540]", "[210, 305, 420, 515]"]


def test_two_data_sets_share_the_gallery(run, parse):
    lines = [json.loads(line) for line in run.answers.read_text().splitlines()]
    many = [{**lines[i % 24], "dataset": d, "key": f"{d}{i}"} for d in ("phantom", "cells") for i in range(30)]
    run.answers.write_text("".join(json.dumps(line) + "\n" for line in many))
    cards = find_section(parse(write_report(run)), "answers").all("article")
    assert [c.all("p", "muted")[0].text.split()[0] for c in cards] == ["phantom:test"] * 12 + ["cells:test"] * 12


def test_right_and_wrong_are_words_not_only_colours(run, parse):
    answers = [json.loads(line) for line in run.answers.read_text().splitlines()]
    said = [v.words() for v in find_section(parse(write_report(run)), "answers").all("span", "verdicts")]
    assert said[0::2] == ["✓ right" if a["score"] else "✗ wrong" for a in answers[0::2]]
    assert set(said[1::2]) == {"◐ score 0.79"}


def test_markup_in_an_answer_is_shown_and_not_obeyed(run, parse):
    lines = run.answers.read_text().splitlines()
    first = json.loads(lines[0])
    first["answer"], first["question"] = "<script>alert(1)</script><img src=x onerror=alert(2)>", "</p><h1>owned"
    run.answers.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    page = parse(write_report(run))
    assert len(page.all("script")) == 1 + len(find_data(page)) and len(page.all("h1")) == 1
    assert "<script>" not in "".join(data.text for data in find_data(page))
    assert all(i.attributes["src"].startswith("data:") for i in page.all("img"))
    assert "<script>alert(1)</script>" in find_section(page, "answers").words()


def test_an_answer_that_runs_on_is_cut_and_said(run, parse):
    first = json.loads(run.answers.read_text().splitlines()[0])
    run.answers.write_text(json.dumps({**first, "answer": "la" * 1000}) + "\n")
    assert "and 1,600 more characters" in find_section(parse(write_report(run)), "answers").words()


def test_an_answer_that_was_cut_when_it_was_generated_is_said_to_count_as_none(run, parse):
    first = json.loads(run.answers.read_text().splitlines()[0])
    run.answers.write_text(json.dumps({**first, "cut": ["answer", "blind"]}) + "\n")
    shown = find_section(parse(write_report(run)), "answers").words()
    assert "cut at evaluate.max_new_tokens, so it counts as no answer" in shown


def test_a_thumb_outside_of_the_run_is_not_read(run, tmp_path, parse):
    first = json.loads(run.answers.read_text().splitlines()[0])
    secret = tmp_path / "secret.png"
    secret.write_bytes((run.results.parent / first["thumb"]).read_bytes())
    run.answers.write_text(
        "".join(json.dumps({**first, "key": t, "thumb": t}) + "\n" for t in ("../../secret.png", str(secret)))
    )
    assert not parse(write_report(run)).all("img")


def test_an_unfinished_run_says_what_is_missing(unfinished, parse):
    page = parse(write_report(unfinished))
    notes = [li.text for li in page.all("div", "notes")[0].all("li")]
    assert (
        "The last line of metrics.jsonl is incomplete and was left out. The run is writing it, or was interrupted."
        in notes
    )
    assert "Stage align is not finished: step 100 of 300." in notes
    assert "Not started: instruct, grpo." in notes
    assert any(n.startswith("There is no evaluation yet") for n in notes)
    assert not any(s.attributes["id"] in ("headline", "results", "answers") for s in page.all("section"))
    assert rows(find_section(page, "made").all("table")[0])[2][-1] == "… 33 %"


def test_values_that_are_not_finite_are_counted_under_the_curve(unfinished, parse):
    """The log writes them as text, because JSON has no such numbers."""
    with unfinished.metrics.open("a") as log:
        log.write(
            "\n"
            + json.dumps({"stage": "align", "step": 110, "steps": 300, "loss": "nan", "lr": 1e-3, "grad_norm": "inf"})
            + "\n"
        )
    figures = find_section(parse(write_report(unfinished)), "curves").all("div", "stage")[2].all("figure")
    warned = {f.all("strong")[0].text: f.all("p", "warn")[0].text for f in figures if f.all("p", "warn")}
    assert warned == {
        "loss": "1 value is not finite and not drawn",
        "gradient norm": "1 value is not finite and not drawn",
    }


def test_what_was_frozen_within_a_trained_part_is_shown_beside_it(run, parse):
    path = run.stage("pair") / "stage.json"
    record = json.loads(path.read_text())
    record["frozen"]["encoders.film"] = "7a4644928f3a08db"
    path.write_text(json.dumps(record))
    table = rows(find_section(parse(write_report(run)), "proof").all("table")[0])
    assert next(r for r in table if r[0] == "encoders.film")[1] == "● changed 813 k rest frozen 7a464492"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "status.json",
            {"status": "failed", "reason": "OutOfMemoryError"},
            "The last attempt to train ended with OutOfMemoryError",
        ),
        ("status.json", {"status": "preempted", "reason": ""}, "start it again to resume"),
        (
            "evaluate/protocol.json",
            [{"dataset": "phantom", "split": "test", "shards": {"limit": 50, "samples": 50}}],
            "phantom:test was evaluated on 50 randomly drawn samples, not on all.",
        ),
    ],
)
def test_what_narrows_the_evidence_is_said_on_top(run, parse, name, value, says):
    (run.root / name).write_text(json.dumps(value))
    assert says in parse(write_report(run)).all("div", "notes")[0].words()


def test_quarantined_samples_are_counted_on_top(run, parse):
    run.quarantine.write_text('{"key": "a"}\n{"key": "b"}\n')
    assert (
        "2 samples were skipped because they could not be read"
        in parse(write_report(run)).all("div", "notes")[0].words()
    )


def test_with_folds_the_others_are_trained_on(run, parse):
    lineage = json.loads(run.lineage.read_text())
    lineage["sources"] = {
        "cells": {**lineage["sources"]["cells"], "counts": {"fold0": 70, "fold1": 71, "fold2": 72}, "fold": 1}
    }
    run.lineage.write_text(json.dumps(lineage))
    page = parse(write_report(run))
    assert "training samples 142" in page.all("header")[0].words()
    assert "tested on fold 1, trained on the others" in find_section(page, "data").words()


def test_adapters_are_shown_and_not_counted_twice(run, parse):
    table = {r[0]: r[1:] for r in rows(find_section(parse(write_report(run)), "made").all("table")[1])}
    assert table["lora"] == ["adapters of rank 8, counted in their parts", "49.2 k"]
    assert table["language"] == ["causal, qwen2 from scratch", "984 k"]
    assert table["all"][1] == "2.27 M"


def test_steps_logged_again_after_a_resume_count_once(unfinished, parse):
    """The torn line is followed by the resumed run's lines; step 100 is logged twice, and the later value counts."""
    with unfinished.metrics.open("a") as log:
        log.write("\n" + json.dumps({"stage": "align", "step": 100, "steps": 300, "loss": 123.0, "lr": 1e-3}) + "\n")
    page = parse(write_report(unfinished))
    assert "metrics.jsonl: 1 unreadable line left out" in page.all("div", "notes")[0].words()
    loss = find_section(page, "curves").all("div", "stage")[2].all("figure")[0]
    assert loss.all("span", "legend")[0].children[0].words() == "train 123"
    steps = [int(re.findall(r"^step (\d+)", t.text)[0]) for t in loss.all("title") if t.text.startswith("step ")]
    assert steps.count(100) == 1


@pytest.mark.parametrize(
    "name",
    [
        "recipe.resolved.yaml",
        "metrics.jsonl",
        "lineage.json",
        "evaluate/results.json",
        "evaluate/answers.jsonl",
        "pair/stage.json",
    ],
)
@pytest.mark.parametrize("damage", [None, b"[1, 2", b"\xff\xfe", b"null\n"])
def test_any_file_may_be_missing_or_damaged(run, parse, name, damage):
    whole = write_report(run).read_text()
    path = run.root / name
    path.unlink() if damage is None else path.write_bytes(damage)
    page = write_report(run).read_text()
    assert "<h1>phantom</h1>" in page and page.endswith("</html>\n") and page != whole


@pytest.mark.parametrize("name", ["typo", "empty", "notes"])
def test_a_folder_that_is_no_run_is_refused_and_stays_as_it_is(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "page.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RecipeError, match="is not a run folder"):
        write_report(RunFolder(tmp_path / name))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_has_only_begun_gives_a_page_that_says_so(tmp_path, parse):
    (tmp_path / "status.json").write_text('{"status": "running"}')
    page = parse(write_report(RunFolder(tmp_path)))
    assert "No stage has started; not evaluated yet" in page.words()
    assert not page.all("section")


@pytest.mark.parametrize(
    "damage", [{"difference": [0.1]}, {"difference": "0.1"}, {"difference": {}}, {"ci": "0.1"}, {"against": 7}]
)
def test_results_with_a_damaged_difference_are_left_out_with_a_note(run, parse, damage):
    results = json.loads(run.results.read_text())
    row = next(row for row in results if row["paired"])
    row["paired"] |= damage
    run.results.write_text(json.dumps(results))
    note = parse(write_report(run)).all("div", "notes")[0].words()
    assert f"results.json is damaged and was left out ({results.index(row)}.paired.{next(iter(damage))} is " in note


def test_a_result_without_a_number_does_not_break_the_page(run, parse):
    nothing = {
        "dataset": "phantom",
        "split": "test",
        "task": "boxes",
        "metric": "iou",
        "value": float("nan"),
        "ci": [None, None],
        "n": 0,
        "baselines": None,
        "paired": None,
    }
    run.results.write_text(json.dumps([nothing]))
    page = parse(write_report(run))
    assert rows(find_section(page, "results").all("table")[0])[0][3:6] == ["not scored", "no interval", "0"]
    assert not any(s.attributes["id"] == "headline" for s in page.all("section"))
