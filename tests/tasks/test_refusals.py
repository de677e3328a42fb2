"""What is a refusal and what is not, phrase by phrase."""

from __future__ import annotations

import pytest

from medvlm.core.sample import Truth, make_truth
from medvlm.tasks._refusals import is_refusal

OPEN = make_truth("open", "left lung")
YES_NO = make_truth("choice", "yes", choices=("yes", "no"))
COUNT = make_truth("count", "2", count=2, label="nodule")

REFUSALS = [
    "I cannot answer this question.",
    "I can't determine this from the image.",
    "This cannot be determined from the image provided.",
    "It is not possible to tell from this picture.",
    "It's impossible to say.",
    "The question can not be answered with this image.",
    "I am unable to assess this.",
    "We are not able to reliably determine the side.",
    "There is not enough information to answer.",
    "Insufficient information to determine the stage.",
    "No image was provided.",
    "There is no image to look at.",
    "I cannot see the image.",
    "I'm unable to view any picture here, sorry.",
    "The image has not been attached. Please upload it.",
    "Please provide the chest X-ray.",
    "The image does not match the question.",
    "This image does not allow an answer.",
    "The picture doesn't contain enough detail.",
    "This is not a chest X-ray.",
    "This is a brain MRI, not a chest radiograph.",
    "Unanswerable",
    "not applicable",
    "N/A",
    "I don't know.",
    "I do not know the answer",
    "I am not sure.",
    "I don\u2019t have access to the picture.",
    "This is an ultrasound of the liver. The question about the lung cannot be answered.",
    "Das kann nicht beurteilt werden.",
    "Das lässt sich auf dem Bild nicht bestimmen.",
    "No se puede determinar.",
    "Il est impossible de répondre.",
    "无法判断。",
]
ANSWERS = [
    "left lung",
    "The left lung.",
    "",
    "No effusion.",
    "I cannot see an effusion.",
    "No fracture can be seen.",
    "A fracture cannot be excluded.",
    "Pneumonia cannot be ruled out.",
    "There is no doubt that it is the left lung.",
    "It is not impossible to tell: the left lung.",
    "I am not sure, but it looks like the left lung.",
    "I cannot determine the cause, but the left lung is dense.",
    "The question can be answered: left lung.",
    "The image does not show a fracture.",
    "The radiograph shows no pneumothorax.",
    "Nothing is known about the patient's history.",
    "It is difficult to assess, probably the left lung.",
    "The lesion is not seen on this view.",
    "This is a chest X-ray.",
    "The heart size cannot be assessed in detail, however the left lung is clear.",
    "The left lung is dense. Its apex cannot be assessed. The right one is clear.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_recognised(text: str) -> None:
    assert is_refusal(text, OPEN)


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_no_refusal(text: str) -> None:
    assert not is_refusal(text, OPEN)


@pytest.mark.parametrize(
    ("text", "truth", "expected"),
    [
        ("I cannot answer this.", YES_NO, True),
        ("This is not a chest X-ray.", make_truth("choice", "left", choices=("left", "right")), True),
        ("Yes. The stage cannot be determined.", YES_NO, False),
        ("no", YES_NO, False),
        ("I cannot tell how many there are.", COUNT, True),
        ("There are 2 nodules. Their kind cannot be determined.", COUNT, False),
        ("I cannot tell whether it is yes or no.", YES_NO, True),
    ],
)
def test_a_text_in_which_the_task_reads_an_answer_does_not_refuse(text: str, truth: Truth, expected: bool) -> None:
    assert is_refusal(text, truth) == expected


def test_known_limit_what_cannot_be_assessed_at_the_end_counts_as_a_refusal() -> None:
    assert is_refusal("The left lung is dense. Its apex cannot be assessed.", OPEN)
