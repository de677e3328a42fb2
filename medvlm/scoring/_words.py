"""Normalisation of words by the evaluation code of VQA v1, as LLaVA-Med uses it."""

from __future__ import annotations

import re

ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = "none one two three four five six seven eight nine ten"
NUMBERS = {word: str(number) for number, word in enumerate(_NUMBERS.split())}
NUMBERS["zero"] = "0"
_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_SHORT_FORMS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've mustn't must've needn't not've o'clock
oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
they'll they're they've 'twas wasn't we'd've weren't we've what'll what're what's what've when's where'd where's
where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
y'all'd've you'd you'd've you'll you're you've
"""


def _list_misspellings() -> dict[str, str]:
    """A short form without one of its apostrophes -> the short form."""
    words = _SHORT_FORMS.split()
    return {word[:n] + word[n + 1 :]: word for word in words for n in range(len(word)) if word[n] == "'"}


SHORT_FORMS = _list_misspellings()


def normalise_words(text: str) -> str:
    """Lower case, without articles and most punctuation, numbers to ten as digits, short forms with their apostrophes.

    Of a sign that stands beside a blank anywhere in the text, all are removed; others become blanks, so `T2-weighted`
    is two words. At most 32 full stops go, because the published code hands `re.UNICODE` to the place of `count`.
    """
    has_thousands = re.search(r"\d,\d", text) is not None
    plain = text
    for sign in _SIGNS:
        is_beside_blank = f"{sign} " in text or f" {sign}" in text
        plain = plain.replace(sign, "" if is_beside_blank or has_thousands else " ")
    plain = re.sub(r"(?!<=\d)(\.)(?!\d)", "", plain, count=int(re.UNICODE))
    words = (NUMBERS.get(word, word) for word in plain.lower().split())
    return " ".join(SHORT_FORMS.get(word, word) for word in words if word not in ARTICLES).replace(",", "")
