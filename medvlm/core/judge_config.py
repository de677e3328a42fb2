"""By what rule a judge model scores an answer: its prompt, its scale, and the form of its reply."""

from __future__ import annotations

import re

from pydantic import field_validator

from medvlm.core.config import Config

SCORE = "{score}"
_FIELDS = ("question", "reference", "answer")
_FIELD = re.compile(r"\{(" + "|".join(_FIELDS) + r")\}")


class Rubric(Config):
    prompt: str
    """What the judge is asked, with the places {question}, {reference} and {answer}. Other braces stay as they are."""
    scale: tuple[int, int]
    """The scores of the worst and of the best answer, e.g. [1, 5]. The judge gives a whole number; results are scaled
    to 0 for the worst and 1 for the best."""
    reply: str = f"Score: {SCORE}"
    """The last line of the reply, which the prompt must ask for. What precedes it is ignored. A reply without it has no
    score."""

    @field_validator("prompt")
    @classmethod
    def _shows_both(cls, prompt: str) -> str:
        if missing := [name for name in ("reference", "answer") if f"{{{name}}}" not in prompt]:
            raise ValueError(f"does not show the judge the {missing[0]}; put {{{missing[0]}}} where it belongs")
        return prompt

    @field_validator("scale")
    @classmethod
    def _has_two_ends(cls, scale: tuple[int, int]) -> tuple[int, int]:
        if scale[0] == scale[1]:
            raise ValueError(f"{list(scale)}: the worst and the best score are equal; expected e.g. [1, 5]")
        return scale

    @field_validator("reply")
    @classmethod
    def _has_a_score(cls, reply: str) -> str:
        if reply.count(SCORE) != 1 or "\n" in reply.strip():
            raise ValueError(f"{reply!r}: expected one line with {SCORE} in it once, e.g. Score: {SCORE}")
        return reply

    def write(self, question: str, reference: str, answer: str) -> str:
        """The prompt. Braces in the texts mean nothing."""
        texts = {"question": question, "reference": reference, "answer": answer}
        return _FIELD.sub(lambda field: texts[field[1]], self.prompt)

    def read(self, reply: str) -> float | None:
        """The score in [0, 1]; None where the last line is not of the form, or its number is not on the scale.

        Case, spaces and the signs * and ` are not compared. Nothing is guessed."""
        last = next((line for line in reversed(reply.splitlines()) if _squeeze(line)), "")
        before, after = map(re.escape, map(_squeeze, self.reply.split(SCORE)))
        found = re.fullmatch(rf"{before}(-?[0-9]{{1,6}}){after}", _squeeze(last))
        worst, best = self.scale
        if found is None or not min(worst, best) <= int(found[1]) <= max(worst, best):
            return None
        return (int(found[1]) - worst) / (best - worst)


def _squeeze(text: str) -> str:
    return re.sub(r"[\s*`]", "", text).casefold()


_TEXTS = "Question: {question}\nReference: {reference}\nAnswer: {answer}\n\n"
CLOSED = Rubric(
    prompt=(
        "You compare the answer to a question about a medical image with a reference, which is right.\n\n"
        + _TEXTS
        + "The answer is right if it says the same as the reference, in whatever words and with whatever further"
        " details. It is wrong if it contradicts the reference, names several possibilities, or does not answer the"
        " question. Reply with the line `Score: 1` if it is right, or `Score: 0` if it is wrong, and nothing else."
    ),
    scale=(0, 1),
)
OPEN = Rubric(
    prompt=(
        "You compare the answer to a question about a medical image with a reference, which is right.\n\n"
        + _TEXTS
        + "5: says the same as the reference, in whatever words.\n"
        "4: says the same but for a detail that does not matter.\n"
        "3: is right in the main, and a part is missing or wrong.\n"
        "2: has something in common with the reference, and is wrong in the main.\n"
        "1: is wrong, or does not answer the question.\n"
        "Reply with the line `Score: N`, where N is one of these numbers, and nothing else."
    ),
    scale=(1, 5),
)
LONG = Rubric(
    prompt=(
        "You compare a text about a medical image, such as a report, with a reference, which is right. Only what both"
        " say about the patient counts, not their wording or order.\n\n"
        "Task: {question}\n\nReference:\n{reference}\n\nText:\n{answer}\n\n"
        "5: has every finding of the reference, and none that it lacks or denies.\n"
        "4: a finding without consequences is missing, added or imprecise.\n"
        "3: most findings are right, and one that matters is missing, added or wrong.\n"
        "2: some findings are right, and several that matter are missing, added or wrong.\n"
        "1: has nothing in common with the reference, or contradicts it.\n"
        "Reply with the line `Score: N`, where N is one of these numbers, and nothing else."
    ),
    scale=(1, 5),
)


class Rubrics(Config):
    """The rubric of each kind of question, as in SURE-VQA: right or wrong for closed questions, 1 to 5 for others."""

    closed: Rubric = CLOSED
    """Choices, and questions that their archive calls closed."""
    open: Rubric = OPEN
    """Other questions with a short answer."""
    long: Rubric = LONG
    """Reports and other long texts."""
