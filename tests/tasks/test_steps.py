"""Which steps a rationale says: pairs that a reader would judge the same way, and ways to cheat."""

from __future__ import annotations

import pytest

from medvlm.core.errors import DataError
from medvlm.tasks import stepwise
from medvlm.tasks._steps import find_steps, split_sentences

STEPS = {
    "modality": "Chest radiograph",
    "feature": "A round opacity in the left lower lobe. No pleural effusion.",
    "conclusion": "Pulmonary nodule",
}


@pytest.mark.parametrize(
    ("step", "text", "is_said"),
    [
        ("Chest radiograph", "This is a chest radiograph.", True),
        ("Chest radiograph", "Modality: chest radiographs, two views.", True),
        ("CT of the abdomen", "The image is a CT scan of the abdomen.", True),
        ("A round opacity in the left lower lobe", "In the lower left lobe there is a round, dense opacity.", True),
        ("A round opacity in the left lower lobe", "In the left lower lobe an opacity is noted.", True),
        ("opaque lens with dense white structure", "The lens is opaque, with a dense white structure.", True),
        ("opaque lens with dense white structure", "The lens is opaque.\nA dense white structure is seen.", True),
        ("No pleural effusion", "There is no evidence of pleural effusion.", True),
        ("No pleural effusion", "The heart is large, without pleural effusion.", True),
        ("Mature cataract", "This is consistent with a mature cataract.", True),
        ("The lesion is benign", "The lesion looks benign.", True),
        # another side, direction or polarity
        ("A round opacity in the left lower lobe", "A round opacity in the right lower lobe.", False),
        ("A round opacity in the left lower lobe", "A round opacity in the left upper lobe.", False),
        ("Pleural effusion", "There is no pleural effusion.", False),
        ("Pleural effusion", "Pleural effusion is absent.", False),
        ("No pleural effusion", "There is a pleural effusion.", False),
        ("The lesion is benign", "The lesion is malignant.", False),
        # something else, or too little of it
        ("Pulmonary nodule", "Pulmonary edema.", False),
        ("Chest radiograph", "Axial CT of the chest.", False),
        ("A round opacity in the left lower lobe", "There is an opacity.", False),
        ("Pneumonia", "", False),
        ("Pneumonia", "The image shows what is seen in the image.", False),
        # known limits: other words for the same, and an order of words that matters
        ("Pleural effusion", "There is fluid around the lung.", False),
        ("Left lung larger than right", "The right lung is larger than the left.", True),
    ],
)
def test_a_step_is_said_or_not(step: str, text: str, is_said: bool) -> None:
    assert bool(find_steps(text, {"step": step}).path) == is_said, (split_sentences(step), split_sentences(text))


def test_the_path_is_the_order_of_the_first_mentions() -> None:
    text = "A pulmonary nodule is likely. The chest radiograph shows it. A pulmonary nodule, then."
    assert find_steps(text, STEPS).path == ("conclusion", "modality")


def test_a_denial_reaches_no_further_than_its_part() -> None:
    text = "There is a round opacity in the left lower lobe, and no pleural effusion."
    found = find_steps(text, STEPS)
    assert found.path == ("feature",) and (found.num_right, found.num_sentences) == (2, 2)


def test_repeating_a_step_earns_nothing_and_other_sentences_cost_precision() -> None:
    found = find_steps("Pulmonary nodule. " * 9 + "The weather is fine. Bones are intact.", STEPS)
    assert (found.num_right, found.num_sentences) == (1, 3)


def test_a_bag_of_all_words_says_no_step_of_another_sign() -> None:
    """Everything in one sentence has the denial of its parts, and both sides."""
    text = "No chest radiograph round opacity left right lower upper lobe pleural effusion pulmonary nodule"
    assert "conclusion" not in find_steps(text, STEPS).path


def test_numbered_and_bulleted_steps_are_read_without_their_marks() -> None:
    assert split_sentences("Step 1: Chest radiograph\n2. Nodule\n- Nodules") == split_sentences(
        "chest radiograph. nodule. nodule"
    )


CHAIN = ("This is a frontal chest radiograph.", "There is a dense opacity in the right lower lobe.")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One.\nAnswer: yes", ("One.", "yes")),
        ("<think>One.</think>\n<answer>Yes</answer>", ("One.", "yes")),
        ("<think>One.</think>\n<answer>The answer is yes</answer>", ("One.", "yes")),
        ("One. The answer is (yes).", ("One.", "yes")),
        ("One. Therefore, the final answer is: yes", ("One.", "yes")),
        ("Answer: yes", None),
        ("One.\nAnswer: yes\nOne more.", None),
        ("One.\nAnswer: yes\nAnswer: yes", None),
        ("One.\nyes", None),
        ("One.\nAnswer: yes, or no", None),
    ],
)
def test_how_an_answer_with_steps_is_read(text: str, found: tuple[str, str] | None) -> None:
    truth = stepwise.Truth(steps=CHAIN, final="yes", choices=("yes", "no"))
    read = stepwise.parse(text, truth)
    assert (None if read is None else (read[0].strip(), read[1])) == found


def test_a_step_less_costs_its_share_of_the_half() -> None:
    truth = stepwise.Truth(steps=CHAIN, final="yes", choices=("yes", "no"))
    recall, precision = 1 / 2, 1.0
    expected = 1 / 2 + recall * precision / (recall + precision)
    assert stepwise.score(f"{CHAIN[0]}\nAnswer: yes", truth) == pytest.approx(expected)
    assert (
        stepwise.is_right("It is a knee.\nAnswer: yes", truth)
        == 1
        > stepwise.find_process("It is a knee.\nAnswer: yes", truth)
    )


def test_steps_are_read_from_lines_of_an_archive() -> None:
    config = stepwise.Config(kind="stepwise", choices=("yes", "no"))
    read = stepwise.from_text("1. One.\n2) Two.\nAnswer: Yes", config)
    assert read == stepwise.Truth(steps=("One.", "Two."), final="yes", choices=("yes", "no"))
    assert read is not None and read.answer == "1. One.\n2. Two.\nAnswer: yes"
    assert stepwise.from_text("1. One.\nAnswer: perhaps", config) is None
    with pytest.raises(DataError, match="one of them is empty"):
        stepwise.Truth(steps=(), final="yes")
