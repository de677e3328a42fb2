import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from medvlm.archive.packing.stored_texts import check_texts
from medvlm.archive.readers.llava_json import Config, read
from medvlm.core.card import load_card
from medvlm.core.contracts import BadSample, LeftOut
from medvlm.core.errors import DataError
from medvlm.core.sample import Sample, make_truth
from medvlm.core.text import MEDIUM
from medvlm.core.turns import list_asked, list_dialogues
from medvlm.io.images import encode_png
from medvlm.recipe.load import find_shipped


def turns(*texts: str) -> list[dict[str, Any]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def record(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"id": "f1", "image": "a.png", "conversations": turns(*texts), **fields}


def read_all(root: Path, *records: Any, **settings: Any) -> list[Any]:
    (root / "img").mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        (root / "img" / name).write_bytes(encode_png(np.zeros((2, 3), np.uint8)))
    (root / "t.json").write_text(json.dumps(records))
    return list(
        read(
            Config.model_validate(
                {"kind": "llava_json", "file": "t.json", "images": "img", "medium": "image", **settings}
            ),
            root,
        )
    )


def asked(raw: Any) -> list[tuple[str, str]]:
    return [(question.text, question.truth.answer) for question in raw.sample.questions]


def test_each_question_of_the_human_is_one_and_the_image_comes_before_it(tmp_path):
    (raw,) = read_all(tmp_path, record("<image>\nWhat is it?", "A film.", "Of what?", "A chest."))
    assert asked(raw) == [("What is it?", "A film."), ("Of what?", "A chest.")]
    assert (
        raw.files == {"0": tmp_path / "img" / "a.png"}
        and raw.sample.media[0].kind == "image"
        and raw.where == "record 1 of t.json"
    )


@pytest.mark.parametrize("text", ["What is it?\n<image>", "<image> What is it?", "What <image> is it?", "What is it?"])
def test_the_place_of_a_single_image_is_taken_out_wherever_it_stands(tmp_path, text):
    (raw,) = read_all(tmp_path, record(text, "A film."))
    assert asked(raw) == [("What is it?", "A film.")]


def test_several_images_are_named_by_their_place_within_a_text(tmp_path):
    (raw,) = read_all(tmp_path, record("<image>\n<image>\nWhat changed?", "Nothing.", image=["a.png", "b.png"]))
    assert asked(raw) == [("What changed?", "Nothing.")] and [path.name for path in raw.files.values()] == [
        "a.png",
        "b.png",
    ]
    (raw,) = read_all(tmp_path, record("Is <image> earlier than <image> ?", "Yes.", image=["a.png", "b.png"]))
    assert asked(raw) == [("Is (image 1) earlier than (image 2) ?", "Yes.")]


def test_an_image_that_a_later_turn_brings_is_not_shown_before_it(tmp_path):
    first, second = read_all(
        tmp_path,
        record("<image>\nDescribe.", "Clear.", "Now see <image> too: changed?", "No.", image=["a.png", "b.png"]),
    )
    assert (asked(first), [path.name for path in first.files.values()]) == ([("Describe.", "Clear.")], ["a.png"])
    assert asked(second) == [("Now see (image 2) too: changed?", "No.")]
    assert [path.name for path in second.files.values()] == ["a.png", "b.png"] and len(second.sample.media) == 2
    assert first.sample.key != second.sample.key


@pytest.mark.parametrize("history", [False, True])
def test_images_that_no_turn_names_belong_to_all_of_them(tmp_path, history):
    (raw,) = read_all(tmp_path, record("A?", "B.", "C?", "D.", image=["a.png", "b.png"]), history=history)
    assert len(raw.files) == 2 and len(asked(raw)) == 2


def test_a_turn_can_have_the_turns_before_it_above_it(tmp_path):
    (raw,) = read_all(
        tmp_path, record("<image>\nWhat is it?", "A film.", "Of what?", "A chest.", "Whose?", "Unknown."), history=True
    )
    assert [text for text, _ in asked(raw)] == [
        "What is it?",
        "What is it?\nA film.\n\nOf what?",
        "What is it?\nA film.\n\nOf what?\nA chest.\n\nWhose?",
    ]


def test_answers_are_choices_where_the_card_names_them_and_texts_or_reports_elsewhere(tmp_path):
    (raw,) = read_all(tmp_path, record("<image>\nClear?", "YES", "Where?", "Left."), choices=["yes", "no"])
    assert [question.truth for question in raw.sample.questions] == [
        make_truth("choice", "yes", choices=("yes", "no")),
        make_truth("open", "Left."),
    ]
    (raw,) = read_all(tmp_path, record("<image>\nDescribe.", "Long."), task="report")
    assert raw.sample.questions[0].truth == make_truth("report", "Long.")


def test_a_conversation_may_be_without_image(tmp_path):
    (raw,) = read_all(tmp_path, {"id": 3, "conversations": turns("What is HU?", "A scale.")})
    assert (raw.sample.media, raw.files, asked(raw)) == ((), {}, [("What is HU?", "A scale.")])


SYSTEM = {"from": "system", "value": "Answer in French."}
TALK = turns("<image>\nWhat is it?", "Un nodule.", "Really?", "Oui.")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"conversations": [SYSTEM, *TALK]}, ["Answer in French.\n\nWhat is it?", "Answer in French.\n\nReally?"]),
        ({"system": "Be brief.", "conversations": TALK}, ["Be brief.\n\nWhat is it?", "Be brief.\n\nReally?"]),
        ({"conversations": [*TALK[:2], SYSTEM, *TALK[2:]]}, ["What is it?", "Answer in French.\n\nReally?"]),
        ({"system": "Be brief.", "conversations": [SYSTEM, *TALK]}, ["Answer in French.\n\nWhat is it?"]),
        ({"conversations": [{"from": "system", "value": " "}, *TALK]}, ["What is it?", "Really?"]),
    ],
)
def test_a_system_turn_stands_above_the_questions_after_it(tmp_path, fields, expected):
    (raw,) = read_all(tmp_path, {"id": "1", "image": "a.png", **fields})
    assert [text for text, _ in asked(raw)][: len(expected)] == expected


def test_with_history_the_system_turn_stands_once_at_the_top(tmp_path):
    (raw,) = read_all(tmp_path, {"id": "1", "image": "a.png", "conversations": [SYSTEM, *TALK]}, history=True)
    assert asked(raw)[1] == ("Answer in French.\n\nWhat is it?\nUn nodule.\n\nReally?", "Oui.")


@pytest.mark.parametrize("out", [{"loss": False}, {"loss": 0}, {"weight": 0}, {"loss_weight": 0.0}])
@pytest.mark.parametrize("history", [False, True])
def test_an_answer_that_its_record_keeps_out_of_the_loss_is_not_asked(tmp_path, out, history):
    talk = [*TALK[:2], TALK[2], {**TALK[3], **out}]
    left_out, raw = read_all(tmp_path, {"id": "1", "image": "a.png", "conversations": talk}, history=history)
    assert asked(raw) == [("What is it?", "Un nodule.")]
    assert left_out == LeftOut("answer that its record keeps out of the loss", 1)
    again = [{**TALK[0]}, {**TALK[1], **out}, *TALK[2:]]
    _, raw = read_all(tmp_path, {"id": "1", "image": "a.png", "conversations": again}, history=history)
    assert asked(raw) == [("What is it?\nUn nodule.\n\nReally?" if history else "Really?", "Oui.")]


@pytest.mark.parametrize("answer", ["nan", "NULL", "None", "<NA>"])
def test_an_answer_that_says_nothing_is_not_asked_and_counted(tmp_path, answer):
    left_out, raw = read_all(tmp_path, record("<image>\nWhat?", answer, "Where?", "There."))
    assert asked(raw) == [("Where?", "There.")] and left_out.count == 1


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"loss": 0.5}, "a `loss` other than 0 and 1"), ({"weight": 2}, "a `weight` other than 0 and 1"),
        ({"image": "b.png"}, "its own image"), ({"tool_calls": [{"name": "f"}]}, "its own tool_calls"),
        ({"from": "function_call"}, "from human to gpt"), ({"from": "observation"}, "from human to gpt"),
        ({"value": "\u200b"}, "is empty"),
    ],
)  # fmt: skip
def test_what_a_turn_says_and_cannot_be_kept_is_refused(tmp_path, turn, reason):
    (bad,) = read_all(tmp_path, {"id": "1", "image": "a.png", "conversations": [*TALK[:3], {**TALK[3], **turn}]})
    assert isinstance(bad, BadSample) and reason in bad.reason


@pytest.mark.parametrize("fields", [{"tools": "[{}]"}, {"weight": 0.5}, {"loss": False}])
def test_what_a_record_says_and_cannot_be_kept_is_refused(tmp_path, fields):
    (bad,) = read_all(tmp_path, record("What?", "This.", **fields))
    assert isinstance(bad, BadSample) and "which is not kept" in bad.reason


def test_the_turns_may_be_spelled_as_llava_med_spells_them(tmp_path):
    (raw,) = read_all(tmp_path, {"id": "x", "image": "a.png", "conversatons": turns("<image>\nWhat?", "This.")})
    assert asked(raw) == [("What?", "This.")]


def test_two_conversations_about_one_figure_are_two_samples(tmp_path):
    first, second = read_all(tmp_path, record("<image>\nWhat?", "This."), record("<image>\nWhere?", "Here."))
    assert first.sample.key != second.sample.key
    again, *_ = read_all(tmp_path, record("<image>\nWhat?", "This."))
    assert again.sample.key == first.sample.key, "a key does not depend on the other records"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record("<image>\nWhat?", "This.", image="c.png"), "its file is not there"),
        (record("<image>\nWhat?", "This.", image="../t.json"), "leads out of the root"),
        (record("<image>\nWhat?", "This.", image=7), "neither a path nor a list of paths"),
        (record("<image><image>\nWhat?", "This."), "has 2 places for images, and it has 1 of them"),
        (record("<image>\nWhat?", "This."), ""),
        (record("<image>\nWhat?"), "do not go from human to gpt"),
        (record("<image>\nWhat?", "This.", conversations=turns("a", "b")[::-1]), "do not go from human to gpt"),
        (record("<image>\n", "This."), "a turn of it is empty"),
        (record("<image>\nWhat?", " "), "a turn of it is empty"),
        (record("What?", "This: <image>"), "an answer of it holds <image>"),
        ({"id": 1, "image": "a.png"}, "of `role` and `content`, under conversations or conversatons"),
        ({"id": 1, "conversations": [{"from": "human"}]}, "no turns of `from` and `value`"),
        ("text", "is not a record"),
    ],
)
def test_a_bad_record_leaves_the_others(tmp_path, bad, reason):
    first, second = read_all(tmp_path, bad, record("<image>\nWhere?", "Here."))
    assert asked(second) == [("Where?", "Here.")]
    if reason:
        assert isinstance(first, BadSample) and reason in first.reason and first.where == "record 1 of t.json"
        assert "c.png" not in first.reason
    else:
        assert asked(first) == [("What?", "This.")]


def test_each_split_can_have_its_file_and_be_of_json_lines(tmp_path):
    read_all(tmp_path)
    for name in ("train.jsonl", "val.jsonl"):
        (tmp_path / name).write_text(json.dumps(record("<image>\nWhat?", name)) + "\n")
    raws = read_all(tmp_path, file={"train": "train.jsonl", "val": "val.jsonl"})
    assert [(raw.sample.split, raw.sample.questions[0].truth.answer, raw.where) for raw in raws] == [
        ("train", "train.jsonl", "line 1 of train.jsonl"), ("val", "val.jsonl", "line 1 of val.jsonl"),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"none\.json: there is no such table"):
        read_all(tmp_path, file="none.json")


# --- dialogues -----------------------------------------------------------------------------------------


def chat(*contents: Any, **fields: Any) -> dict[str, Any]:
    roles = ("system", "user", "assistant") if fields.pop("system", False) else ("user", "assistant")
    told = [
        {"role": roles[i] if i < len(roles) else ("user", "assistant")[(i - len(roles)) % 2]}
        for i in range(len(contents))
    ]
    return {"messages": [{**turn, "content": content} for turn, content in zip(told, contents, strict=True)], **fields}


def told(raw: Any) -> list[tuple[int, str, str, float]]:
    return [(q.turn, q.text.replace(MEDIUM, "[M]"), q.truth.answer, q.weight) for q in raw.sample.questions]


def test_the_turns_of_a_dialogue_keep_their_order_and_the_places_of_their_images(tmp_path):
    texts = ["<image>\nWhat is it?", "A film.", "And in <image>, is it worse?", "Yes.", "Sure?", "No."]
    (raw,) = read_all(tmp_path, record(*texts, image=["a.png", "b.png"]), dialogue=True)
    assert told(raw) == [
        (1, "[M]What is it?", "A film.", 1.0),
        (2, "And in [M], is it worse?", "Yes.", 1.0),
        (3, "Sure?", "No.", 1.0),
    ]
    assert len(raw.sample.media) == 2
    stored = Sample.from_json(json.loads(json.dumps(raw.sample.to_json())))
    assert stored == raw.sample and list_dialogues(stored)[0].before == raw.sample.questions[:2]


def test_images_that_the_text_does_not_place_come_before_the_first_question(tmp_path):
    (raw,) = read_all(tmp_path, record("What?", "This.", "So?", "So.", image=["a.png", "b.png"]), dialogue=True)
    assert told(raw) == [(1, "[M][M]What?", "This.", 1.0), (2, "So?", "So.", 1.0)]


def test_chat_messages_are_read_with_their_system_turn_and_the_images_of_their_parts(tmp_path):
    shown = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]
    other = [{"type": "text", "text": "And "}, {"type": "image_url", "image_url": {"url": "b.png"}}]
    (raw,) = read_all(
        tmp_path, chat("Be brief.", shown, "This.", other, "That.", system=True), turns=["messages"], dialogue=True
    )
    assert told(raw) == [(1, "[M]What?", "This.", 1.0), (2, "And[M]", "That.", 1.0)]
    assert [q.system for q in raw.sample.questions] == ["Be brief.", ""]
    assert [path.name for path in raw.files.values()] == ["a.png", "b.png"]
    bad = chat([{"type": "audio"}], "This."), chat(shown, "This.", image="b.png")
    found = read_all(tmp_path, *bad, turns=["messages"])
    assert "neither a text nor parts" in found[0].reason and "both in the record and in its turns" in found[1].reason


def test_answers_of_a_dialogue_that_are_not_asked_stay_in_it_without_weight(tmp_path):
    turns_of = turns("What?", "This.", "So?", "So.", "Right?", "Yes.")
    turns_of[1]["loss"], turns_of[5]["weight"] = False, 0.25
    left, raw = read_all(tmp_path, {"id": 1, "conversations": turns_of}, dialogue=True)
    assert left == LeftOut("answer that its record keeps out of the loss", 1)
    assert [weight for *_, weight in told(raw)] == [0.0, 1.0, 0.25]
    assert [q.text for q in list_asked(raw.sample)] == ["So?", "Right?"]
    turns_of[5]["weight"] = -1
    (bad,) = read_all(tmp_path, {"id": 1, "conversations": turns_of}, dialogue=True)
    assert "no number from 0 on" in bad.reason
    turns_of[5]["weight"] = 0.25
    (bad,) = read_all(tmp_path, {"id": 1, "conversations": turns_of})
    assert "which only a `dialogue` keeps" in bad.reason


def test_a_system_turn_between_the_turns_of_a_dialogue_is_refused(tmp_path):
    turns_of = turns("What?", "This.", "So?", "So.")
    turns_of.insert(2, {"from": "system", "value": "Now be long."})
    (bad,) = read_all(tmp_path, {"id": 1, "conversations": turns_of}, dialogue=True)
    assert "has a system turn between its turns" in bad.reason
    with pytest.raises(ValidationError, match="remove `history`"):
        read_all(tmp_path, dialogue=True, history=True)


@pytest.mark.parametrize("where", ["system", "later question", "untrained answer"])
def test_every_text_of_a_dialogue_is_checked_before_it_is_stored(tmp_path, where):
    named = "Seen by Dr. Kowalski on 12/03/1990."
    texts = ["What?", "This.", "So?", "So."]
    if where == "later question":
        texts[2] = f"<image> {named}"
    turns_of = turns(*texts)
    if where == "untrained answer":
        turns_of[1] = {"from": "gpt", "value": named, "loss": False}
    system = [{"from": "system", "value": named}] if where == "system" else []
    *_, raw = read_all(tmp_path, {"id": 1, "image": "a.png", "conversations": [*system, *turns_of]}, dialogue=True)
    with pytest.raises(DataError, match=r"date|name"):
        check_texts(raw, load_card(find_shipped("data_cards") / "llava_med_instruct.yaml"))
