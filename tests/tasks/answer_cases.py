"""Short answers with what each says: (text, choices, the choice that it says or None)."""

from __future__ import annotations

YES_NO = ("yes", "no")
SIDES = ("left", "right", "both")
SIDE = ("left", "right")
LETTERS = ("A", "B", "C")
EFFUSION = ("effusion", "no effusion")
NORMAL = ("normal", "abnormal")
ER = ("ER+", "ER-")
SIZE = ("< 3 cm", "> 3 cm")
LABELLED = ("A) pneumonia", "B) effusion")

Case = tuple[str, tuple[str, ...], str | None]

SIGNS: list[Case] = [
    ("ER-", ER, "ER-"),
    ("er+", ER, "ER+"),
    ("ER", ER, None),
    ("ER (-)", ER, "ER-"),
    ("ER\u2212", ER, "ER-"),
    ("The tumour is ER+.", ER, "ER+"),
    ("O+", ("O+", "O-"), "O+"),
    ("HER2-", ("HER2+", "HER2-", "HER2"), "HER2-"),
    ("PR-", ("ER-PR+", "ER-PR-"), None),
    ("ER-PR-", ("ER-PR+", "ER-PR-"), "ER-PR-"),
    ("> 3 cm", SIZE, "> 3 cm"),
    ("<3cm", SIZE, "< 3 cm"),
    ("3 cm", SIZE, None),
    ("3 mm", ("3 cm", "3 mm"), "3 mm"),
    (">=3", ("<3", "\u22653"), "\u22653"),
    ("> 3", ("3", "4"), None),
    ("more than 3 cm", ("3 cm", "5 cm"), None),
    ("-2", ("-2", "2"), "-2"),
    ("2", ("\u22122", "2"), "2"),
    ("3+", ("3+", "3"), "3+"),
    ("3", ("3+", "3"), "3"),
    ("1:2", ("1:2", "1/2"), "1:2"),
    ("C3-C4", ("C3/C4", "C3-C4"), "C3-C4"),
    ("1-2", ("1-2", "1 2"), "1-2"),
    ("5%", ("5", "5 %"), "5 %"),
    ("30\u00b0", ("30", "30\u00b0"), "30\u00b0"),
    ("10\u00b2", ("10\u00b2", "102"), "10\u00b2"),
    ("5 \u00b1 1", ("5 \u00b1 1", "5 1"), "5 \u00b1 1"),
    ("+", ("+", "-"), "+"),
    ("The answer is -.", ("+", "-"), "-"),
    ("\u00b1", ("+", "\u00b1"), "\u00b1"),
    ("\U0001f44e", ("\U0001f44d", "\U0001f44e"), "\U0001f44e"),
    ("", ("+", "-"), None),
    ("!", ("+", "-"), None),
]

FROM_3 = ("< 3 cm", "\u2265 3 cm")
UP_TO_3 = ("\u2264 3", "> 3")
RELATIONS: list[Case] = [
    ("less than 3 cm", SIZE, "< 3 cm"),
    ("It is more than three cm.", SIZE, "> 3 cm"),
    ("over 3 cm in diameter", SIZE, "> 3 cm"),
    ("The lesion is smaller than 3cm", SIZE, "< 3 cm"),
    ("No, less than 3 cm", FROM_3, "< 3 cm"),
    ("no less than 3 cm", FROM_3, "\u2265 3 cm"),
    ("at least 3 cm", FROM_3, "\u2265 3 cm"),
    ("3 cm or more", FROM_3, "\u2265 3 cm"),
    ("3 cm or larger", FROM_3, "\u2265 3 cm"),
    ("greater than or equal to 3 cm", FROM_3, "\u2265 3 cm"),
    ("more than 3 cm", FROM_3, None),
    ("at most 3", UP_TO_3, "\u2264 3"),
    ("three or fewer", UP_TO_3, "\u2264 3"),
    ("not more than 3", UP_TO_3, "\u2264 3"),
    ("up to 3", UP_TO_3, "\u2264 3"),
    ("not less than 3 cm", SIZE, None),
    ("not over 3 cm", SIZE, None),
    ("more than 2 cm", SIZE, None),
    ("3 cm or less than that", SIZE, None),
    ("more or less 3 cm", SIZE, None),
    ("above 5 cm", ("less than 3 cm", "3 to 5 cm", "more than 5 cm"), "more than 5 cm"),
    ("< 3 cm", ("less than 3 cm", "3 to 5 cm", "more than 5 cm"), "less than 3 cm"),
    ("3 cm", ("less than 3 cm", "3 to 5 cm", "more than 5 cm"), None),
    ("\u00fcber 3 cm", SIZE, "> 3 cm"),
    ("kleiner als 3 cm", SIZE, "< 3 cm"),
    ("mindestens 3 cm", FROM_3, "\u2265 3 cm"),
    ("menos de 3 cm", SIZE, "< 3 cm"),
    ("m\u00e1s de 3 cm", SIZE, "> 3 cm"),
    ("no m\u00e1s de 3", UP_TO_3, "\u2264 3"),
    ("plus de 3 cm", SIZE, "> 3 cm"),
    ("au moins 3 cm", FROM_3, "\u2265 3 cm"),
    ("\u5c0f\u4e8e3\u5398\u7c73", ("< 3\u5398\u7c73", "> 3\u5398\u7c73"), "< 3\u5398\u7c73"),
    ("\u81f3\u5c113", ("\u2265 3", "< 3"), "\u2265 3"),
    ("3\u5398\u7c73\u4ee5\u4e0a", ("\u2265 3\u5398\u7c73", "< 3\u5398\u7c73"), "\u2265 3\u5398\u7c73"),
    ("120 over 80", ("> 80", "< 80"), None),
]

SCRIPTS: list[Case] = [
    ("\u0915\u0940", ("\u0915\u0940", "\u0915\u093e"), "\u0915\u0940"),
    ("\u0939\u093e\u0901", ("\u0939\u093e\u0901", "\u0939\u0948"), "\u0939\u093e\u0901"),
    ("\u0e43\u0e0a\u0e48", ("\u0e43\u0e0a\u0e48", "\u0e43\u0e0a\u0e49"), "\u0e43\u0e0a\u0e48"),
    (
        "\u0e44\u0e21\u0e48\u0e43\u0e0a\u0e48",
        ("\u0e43\u0e0a\u0e48", "\u0e44\u0e21\u0e48\u0e43\u0e0a\u0e48"),
        "\u0e44\u0e21\u0e48\u0e43\u0e0a\u0e48",
    ),
    (
        "\u0645\u064e\u0644\u0650\u0643",
        ("\u0645\u064e\u0644\u0650\u0643", "\u0645\u064f\u0644\u0643"),
        "\u0645\u064e\u0644\u0650\u0643",
    ),
    ("病变在左肺。", ("左肺", "右肺"), "左肺"),
    ("答案是C。", LETTERS, "C"),
    ("没有气胸", ("气胸", "正常"), "正常"),
    ("不是", ("是", "否"), "否"),
    ("是的", ("是", "否"), "是"),
]

ARTICLES: list[Case] = [
    ("influenza", ("influenza A", "influenza B"), None),
    ("type B influenza", ("influenza A", "influenza B"), None),
    ("It is influenza A.", ("influenza A", "influenza B"), "influenza A"),
    ("Stanford type B", ("Stanford A", "Stanford B"), None),
    ("hepatitis C", ("hepatitis A", "hepatitis B"), None),
    ("hepatitis virus", ("hepatitis A virus", "hepatitis B virus"), None),
    ("vitamin deficiency", ("vitamin A deficiency", "vitamin D deficiency"), None),
    ("Group A", ("Group A", "Group"), "Group A"),
    ("A lesion is seen, so the answer is C", LETTERS, "C"),
    ("a lesion", LETTERS, None),
    ("The answer is A because of the rim", LETTERS, "A"),
    ("A", LABELLED, "A) pneumonia"),
    ("(b)", LABELLED, "B) effusion"),
    ("It is pneumonia.", LABELLED, "A) pneumonia"),
    ("A) effusion", LABELLED, None),
    ("I think B", ("I", "II", "B"), "B"),
]

NEGATION: list[Case] = [
    ("not present", ("present", "absent"), "absent"),
    ("No evidence of pneumonia", ("pneumonia", "effusion"), None),
    ("No evidence of pneumonia", ("pneumonia", "normal"), "normal"),
    ("There is no pleural effusion", EFFUSION, "no effusion"),
    ("There is an effusion.", EFFUSION, "effusion"),
    ("Effusion is absent", EFFUSION, "no effusion"),
    ("effusion: no", EFFUSION, "no effusion"),
    ("Negative for effusion", EFFUSION, "no effusion"),
    ("effusion unlikely", EFFUSION, "no effusion"),
    ("Effusion cannot be excluded", EFFUSION, None),
    ("not normal", NORMAL, "abnormal"),
    ("It isn't normal", NORMAL, "abnormal"),
    ("I cannot tell if it is normal", NORMAL, None),
    ("not C", LETTERS, None),
    ("not left", SIDES, None),
    ("neither left nor right", SIDES, None),
    ("left, not right", SIDE, "left"),
    ("not left but right", SIDES, "right"),
    ("right rather than left", SIDES, "right"),
    ("Pneumonia without effusion", ("pneumonia", "effusion"), "pneumonia"),
    ("No pneumonia, effusion, or nodule", ("pneumonia", "effusion", "nodule"), None),
    ("No doubt it is left.", SIDES, "left"),
    ("No sign of malignancy, benign", ("benign", "malignant"), None),
    ("There's nothing abnormal", NORMAL, "normal"),
    ("anything but normal", NORMAL, "abnormal"),
    ("hardly normal", NORMAL, "abnormal"),
    ("The lesion does not appear malignant", ("benign", "malignant"), "benign"),
    ("The mass is not on the left. It is on the right.", SIDES, "right"),
    ("non-contrast", ("contrast", "non-contrast"), "non-contrast"),
    ("Yes. No pneumothorax is seen.", YES_NO, "yes"),
    ("Yes, there is no doubt.", YES_NO, "yes"),
    ("It is absent", YES_NO, "no"),
    ("not present", YES_NO, "no"),
    ("There is no effusion.", YES_NO, "no"),
    ("The answer is not yes", YES_NO, "no"),
    ("I have no idea", YES_NO, None),
    ("no one can say", YES_NO, None),
    ("It is unclear", YES_NO, None),
    ("No hay neumonía", ("neumonía", "no neumonía"), "no neumonía"),
    ("sin derrame", ("derrame", "normal"), "normal"),
    ("Sí, hay derrame", ("sí", "no"), "sí"),
    ("No se observa derrame", ("sí", "no"), "no"),
    ("no está claro", ("sí", "no"), None),
    ("kein Erguss", ("Erguss", "normal"), "normal"),
    ("pas de fracture", ("fracture", "normal"), "normal"),
]

REPETITION: list[Case] = [
    ("left left left", SIDES, None),
    ("left, left", SIDES, None),
    ("left and left", SIDES, None),
    ("The answer is left. The answer is left.", SIDES, None),
    ("left right both", SIDES, None),
    ("left or right", SIDES, None),
    ("left? right", SIDE, None),
    ("yes no", YES_NO, None),
    ("yes or no", YES_NO, None),
    ("No effusion, yes", YES_NO, None),
    ("Is it left or right? left", SIDE, "left"),
    ("Left. The lesion is on the left.", SIDES, "left"),
]

CASES = SIGNS + RELATIONS + SCRIPTS + ARTICLES + NEGATION + REPETITION
