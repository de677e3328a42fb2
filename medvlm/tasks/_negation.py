"""Denial, doubt and contrast in words, in the languages of the cards and their neighbours.

English and Spanish are those of the shipped cards; German, French, Portuguese, Italian and Chinese have the commonest
phrases. Each phrase is matched as whole words, and in Chinese as characters.
"""

from __future__ import annotations

import re
from functools import cache

from medvlm.tasks._tokens import scan_tokens

YES = {"yes": {"yes", "yeah", "yep", "yup"}, "sí": {"sí", "si"}, "si": {"sí", "si"}, "是": {"是", "是 的"}} | {
    word: {word} for word in ("oui", "ja", "sim", "sì", "有")
}
"""Choices that affirm, and the words that say so."""
NO = {"no": {"no", "nope"}, "否": {"否", "不 是"}, "不 是": {"不 是", "否"}, "没 有": {"没 有", "无", "没"}} | {
    "无": {"无", "没 有"},
    **{word: {word} for word in ("non", "nein", "não")},
}

DENIALS = """no, not, non, n't, never, neither, nor, none of, without, lack of, lacks, lacking, absence of, absent, free of,
negative for, no evidence of, no sign of, denies, rather than, instead of, other than, than, versus, vs, as opposed to,
unlike, excluding, excludes, except, rules out, ruled out, rule out, cannot, unlikely to be, fails to show, devoid of,
against, ningún, ninguna, ninguno, sin, nunca, ni, tampoco, ausencia de, libre de, negativo para, negativa para, niega,
descarta, descartado, descartada, en lugar de, en vez de, salvo, excepto, jamás, nicht, kein, keine, keinen, keiner,
keinem, keines, ohne, weder, noch, statt, frei von, n'est pas, ne pas, pas de, pas d, aucun, aucune, sans, absence d, ni,
plutôt que, au lieu de, não, nem, sem, nenhum, nenhuma, senza, nessun, nessuna, nessuno, né, 不, 没, 無, 无, 未, 非, 勿,
排除, 而非, 缺乏"""
"""Before what they deny."""
ENDINGS = """absent, excluded, ruled out, unlikely, not, n't, no, negative, missing, lacking, incorrect, wrong, false,
denied, ausente, ausentes, descartado, descartada, excluido, excluida, negativo, negativa, nicht, ausgeschlossen,
abwesend, absente, exclu, exclue, pas, 不存在, 缺如, 阴性, 被排除, 错误"""
"""Behind what they deny."""
DOUBTS = """cannot be excluded, can not be excluded, can't be excluded, cannot exclude, can't exclude, not excluded, not be
excluded, cannot be ruled out, can't be ruled out, can not be ruled out, not ruled out, not be ruled out, cannot rule out,
can't rule out, unclear, not clear, not sure, unsure, not certain, uncertain, cannot tell, can't tell, cannot say, can't
say, cannot determine, can't determine, cannot be determined, can't be determined, not possible, impossible to, unable to,
whether, not known, unknown, don't know, do not know, no idea, no answer, no information, no way to, no telling, no one can,
nobody can, nobody knows, no one knows, see nothing, not enough, insufficient, cannot be assessed, can't be assessed, not
visualized well, cannot answer, can't answer, cannot see, can't see, if it is, not only, not just, not necessarily, no se
puede, no puedo, no sé, no está claro, no es posible, no estoy seguro, no segura, si hay, indeterminado, desconocido,
desconozco, sin información, no se sabe, unklar, nicht sicher, unsicher, weiß nicht, nicht klar, nicht möglich, kann nicht,
nicht auszuschließen, ob, pas sûr, pas clair, incertain, impossible de, ne sais pas, ne peut pas, sais pas, não sei, não é
possível, incerto, non so, non è possibile, 不清楚, 不确定, 不知道, 无法, 不能排除, 不能确定, 是否, 可能不, 不明确"""
"""What is said with one of them is no answer."""
IDIOMS = """no doubt, without doubt, without a doubt, without any doubt, no question, nothing but, none other than, no other
than, sin duda, ninguna duda, no hay duda, ohne zweifel, zweifellos, kein zweifel, sans doute, sans aucun doute, sem dúvida,
senza dubbio, 无疑, 毫无疑问, 没有疑问"""
"""They deny nothing."""
TURNS = """but, however, though, although, yet, instead, because, since, so, therefore, thus, hence, while, whereas, pero, sino,
porque, aunque, así que, mientras, sondern, aber, weil, jedoch, mais, car, donc, mas, ma, perché, 但, 但是, 而是, 因为, 所以,
却"""
"""A denial before them says nothing about what comes after."""
_SUBJECTS = frozenset(
    "it there this that these the i we they he she answer instead es hay el la los las esto se es gibt der die das il elle"
    " c ce le les lui 它 这 该 有 是".split()
)
_VERBS = frozenset(
    "is are was were has have shows show seems appears lies see think exists es está son hay tiene muestra ist sind hat"
    " zeigt gibt est sont montre 是 有 为".split()
)
SEEN = """seen, present, visible, identified, found, there, observed, detected, evident, noted, shown, demonstrated,
appreciated, appreciable, apparent, presente, visible, visto, vista, observa, observan, identifica, ve, aprecia, aprecian,
sichtbar, vorhanden, zu sehen, nachweisbar, visible, présent, présente, visto, 见, 可见, 存在, 看到, 发现"""
"""`not seen` says no."""


def split_phrases(text: str) -> list[str]:
    """As they are matched: words with one blank between them."""
    return [" ".join(token.form for token in scan_tokens(phrase)) for phrase in text.split(",")]


@cache
def compile_phrases(text: str) -> re.Pattern[str]:
    """Any of the phrases, the longest first, in words with one blank between them."""
    phrases = sorted({*split_phrases(text)}, key=len, reverse=True)
    each = (r"\w*n t" if phrase == "n t" else re.escape(phrase) for phrase in phrases)
    return re.compile(rf"(?<!\S)(?:{'|'.join(each)})(?!\S)")


def is_doubtful(plain: str) -> bool:
    """Whether what is said is left open. plain: words with one blank between them."""
    return compile_phrases(DOUBTS).search(plain) is not None


def drop_idioms(plain: str) -> str:
    return compile_phrases(IDIOMS).sub("", plain)


def find_denials(plain: str) -> list[tuple[int, int]]:
    return [match.span() for match in compile_phrases(DENIALS).finditer(plain)]


def find_endings(plain: str) -> list[tuple[int, int]]:
    return [match.span() for match in compile_phrases(ENDINGS).finditer(plain)]


def denies_alone(plain: str) -> bool:
    """Whether it says no and nothing else, as `not seen` and `is absent` behind what they speak of."""
    rest = compile_phrases(f"{ENDINGS}, is, are, was, it, not at all, at all, {SEEN}, none, 没有, 否").sub("", plain)
    return not rest.strip() and bool(find_endings(plain) or find_denials(plain) or plain in NO or plain == "none")


def starts_anew(words: list[str]) -> bool:
    """Whether a part behind a comma is a clause of its own, so that a denial before it has ended."""
    return bool(words) and words[0] in _SUBJECTS and not _VERBS.isdisjoint(words)


OPPOSITES = """yes/no, present/absent, positive/negative, true/false, correct/incorrect, benign/malignant, normal/abnormal,
healthy/diseased, healthy/sick, male/female, sí/no, si/no, presente/ausente, positivo/negativo, positiva/negativa,
benigno/maligno, benigna/maligna, normal/anormal, verdadero/falso, sano/enfermo, ja/nein, vorhanden/nicht vorhanden,
gutartig/bösartig, oui/non, présent/absent, bénin/malin, sim/não, 是/否, 是/不是, 有/无, 有/没有, 正常/异常, 阳性/阴性,
良性/恶性, 存在/不存在, 对/错"""
"""One of them is what the other denies. Left and right are not: what is not left may be in the middle."""
_NOTHING = frozenset(
    "normal healthy none clear unremarkable nothing no sano normal normales ninguno ninguna nada gesund unauffällig 正常"
    .split()
) | {"no finding", "no findings", "no disease", "no abnormality", "正 常", "无 异 常", "sin hallazgos"}
_PREFIXES = ("un", "in", "im", "ir", "ab", "non", "dis", "a")


@cache
def _pairs() -> frozenset[tuple[str, str]]:
    found = set()
    for pair in OPPOSITES.split(","):
        one, other = (split_phrases(side)[0] for side in pair.split("/"))
        found |= {(one, other), (other, one)}
    return frozenset(found)


def find_opposite(form: str, forms: list[str]) -> str | None:
    """The only one of the choices that is right where this one is denied."""
    found = [
        other
        for other in forms
        if other != form and (_contradicts(form, other) or (len(forms) == 2 and other in _NOTHING))
    ]
    return found[0] if len(found) == 1 else None


def _contradicts(one: str, other: str) -> bool:
    if (one, other) in _pairs():
        return True
    shorter, longer = sorted((one, other), key=len)
    if not longer.endswith(shorter) and not longer.startswith(shorter):
        return False
    if longer.endswith(shorter):
        more = longer.removesuffix(shorter).strip()
        is_word = longer.removesuffix(shorter).endswith(" ") or not more.isascii()
        return compile_phrases(DENIALS).fullmatch(more) is not None if is_word else more in _PREFIXES
    rest = longer.removeprefix(shorter)
    return rest.startswith(" ") and denies_alone(rest.strip())
