"""Phrases of denial, doubt and contrast, in the languages of the cards and their neighbours.

English and Spanish are those of the shipped cards; German, French, Portuguese, Italian and Chinese have the commonest
phrases. Each phrase is matched as whole words, and in Chinese as characters.
"""

from __future__ import annotations


def list_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DENIALS = """nothing, hardly, barely, far from, failed to show, excluded, exclude, denied, unlikely, nada, nichts,
rien, no, not, non, n't, never, neither, nor, none of, without, lack of, lacks, lacking, absence of, absent, free
of, negative for, no evidence of, no sign of, denies, rather than, instead of, other than, than, versus, vs, as
opposed to, unlike, excluding, excludes, except, rules out, ruled out, rule out, cannot, unlikely to be, fails to
show, devoid of, against, ningún, ninguna, ninguno, sin, nunca, ni, tampoco, ausencia de, libre de, negativo para,
negativa para, niega, descarta, descartado, descartada, en lugar de, en vez de, salvo, excepto, jamás, nicht,
kein, keine, keinen, keiner, keinem, keines, ohne, weder, noch, statt, frei von, n'est pas, ne pas, pas de, pas d,
aucun, aucune, sans, absence d, plutôt que, au lieu de, não, nem, sem, nenhum, nenhuma, senza, nessun, nessuna,
nessuno, né, 不, 没, 無, 无, 未, 非, 勿, 排除, 而非, 缺乏"""
"""Before what they deny."""

ENDINGS = """absent, excluded, ruled out, unlikely, not, n't, no, negative, missing, lacking, incorrect, wrong, false,
denied, ausente, ausentes, descartado, descartada, excluido, excluida, negativo, negativa, nicht, ausgeschlossen,
abwesend, absente, exclu, exclue, pas, 不存在, 缺如, 阴性, 被排除, 错误"""
"""Behind what they deny."""

DOUBTS = """cannot be excluded, can not be excluded, can't be excluded, cannot exclude, can't exclude, not
excluded, not be excluded, cannot be ruled out, can't be ruled out, can not be ruled out, not ruled out, not be
ruled out, cannot rule out, can't rule out, unclear, not clear, not sure, unsure, not certain, uncertain, cannot
tell, can't tell, cannot say, can't say, cannot determine, can't determine, cannot be determined, can't be
determined, not possible, impossible to, unable to, whether, not known, unknown, don't know, do not know, no
idea, no answer, no information, no way to, no telling, no one can, nobody can, nobody knows, no one knows, see
nothing, not enough, insufficient, cannot be assessed, can't be assessed, not visualized well, cannot answer,
can't answer, cannot see, can't see, if it is, not only, not just, not necessarily, no se puede, no puedo, no
sé, no está claro, no es posible, no estoy seguro, no segura, si hay, indeterminado, desconocido, desconozco,
sin información, no se sabe, unklar, nicht sicher, unsicher, weiß nicht, nicht klar, nicht möglich, kann nicht,
nicht auszuschließen, ob, pas sûr, pas clair, incertain, impossible de, ne sais pas, ne peut pas, sais pas, não
sei, não é possível, incerto, non so, non è possibile, 不清楚, 不确定, 不知道, 无法, 不能排除, 不能确定,
是否, 可能不, 不明确"""
"""What is said with one of them is no answer."""

IDIOMS = """no doubt, without doubt, without a doubt, without any doubt, no question, nothing but, none other
than, no other than, sin duda, ninguna duda, no hay duda, ohne zweifel, zweifellos, kein zweifel, sans doute,
sans aucun doute, sem dúvida, senza dubbio, 无疑, 毫无疑问, 没有疑问"""
"""They deny nothing."""

TURNS = """but, however, though, although, yet, instead, because, since, so, therefore, thus, hence, while, whereas,
pero, sino, porque, aunque, así que, mientras, sondern, aber, weil, jedoch, mais, car, donc, mas, ma, perché, 但, 但是,
而是, 因为, 所以, 却"""
"""A denial before them says nothing about what comes after."""

SEEN = """seen, present, visible, identified, found, there, observed, detected, evident, noted, shown, demonstrated,
appreciated, appreciable, apparent, presente, visto, vista, observa, observan, identifica, ve, aprecia, aprecian,
sichtbar, vorhanden, zu sehen, nachweisbar, présent, présente, 见, 可见, 存在, 看到, 发现"""
"""`not seen` says no."""

OPPOSITES = """yes/no, present/absent, positive/negative, true/false, correct/incorrect, benign/malignant,
normal/abnormal, healthy/diseased, healthy/sick, male/female, sí/no, si/no, presente/ausente, positivo/negativo,
positiva/negativa, benigno/maligno, benigna/maligna, normal/anormal, verdadero/falso, sano/enfermo, ja/nein,
vorhanden/nicht vorhanden, gutartig/bösartig, oui/non, présent/absent, bénin/malin, sim/não, 是/否, 是/不是,
有/无, 有/没有,
正常/异常, 阳性/阴性, 良性/恶性, 存在/不存在, 对/错"""
"""One of them is what the other denies. Left and right are not: what is not left may be in the middle."""

NOTHING = """no, none, nothing, nil, not any, n't any, n't have any, n't see any, n't find any, not see any, not
contain any, without any, not a single, absent, absence of, zero, devoid of, free of, cannot find any, ningún,
ninguna, ninguno, no hay, ausente, sin, nada, cero, kein, keine, keinen, keiner, nichts, null, aucun, aucune,
rien, pas de, nenhum, nenhuma, nessun, nessuna, nessuno, 没有, 無, 无, 零, 未见"""
"""There is none of what is counted or looked for."""
COUNT_DOUBTS = """no more, no fewer, no less, no longer, no shortage, no lack, no sense, no reason, no matter,
no way, no image, no picture, no data, no scan, not enough, not sure, how many, to count, to tell, to say, no
number, no one, nobody, no exact, no clear, no definite, no doubt, no question, no comment, no hay duda, no hay
imagen, no hay información, more than none, several, many, few, some, multiple, numerous, a lot, dozens,
hundreds, thousands, millions, countless, varios, varias, muchos, muchas, algunos, algunas, mehrere, viele,
einige, plusieurs, quelques, beaucoup, 很多, 一些, 多个, 许多"""
"""With these it is not said that there is none."""
RELATIONS = """more than, less than, fewer than, greater than, over, under, above, below, at least, at most, up
to, no more than, no fewer than, no less than, not, n't, n't be, not be, isn't, aren't, is not, are not,
exceeds, beyond, minus, negative, nearly, almost, between, from, other than, except, no, without, rather than,
instead of, más de, menos de, al menos, no son, no hay, mehr als, weniger als, mindestens, höchstens, plus de,
moins de, au moins
| or more, and a half, and a quarter, or fewer, or less, or so, or above, or below, percent, per cent, per,
point, times as, or greater, plus, more than, o más, o menos, oder mehr, ou plus"""
"""Before a number, and behind one: it is a bound, or denied."""
