"""What affirms, denies, questions and dates a finding in an English report, and on which side it is.

Written like the phrases of words.py. That doubt is read before denial, and denial before and behind a finding, is an
idea of NegBio (Peng et al. 2018, https://arxiv.org/abs/1712.05898) and of the CheXpert labeler (Irvin et al. 2019,
https://github.com/stanfordmlgroup/chexpert-labeler, MIT licence), and so are some of the phrases.
"""

from __future__ import annotations

NORMAL = """normal, normally, unremarkable, within normal limits, clear, not enlarged, not widened, not dilated,
    sharp, intact, preserved, no enlargement"""
NOT_NORMAL = """clear of, upper limits of normal, upper limit of normal, top normal, borderline normal, not normal,
    not clear, otherwise clear, otherwise unremarkable, otherwise normal, normal variant, previously clear,
    previously normal"""
BORDERLINE = "upper limits of normal, upper limit of normal, top normal, borderline"
ENLARGED = "enlarged, widened, dilated, increased in size"
NOT_ENLARGED = "not enlarged, not widened, not dilated, not significantly enlarged, not increased in size"

NOTHING = "finding, findings, abnormality, abnormalities, abnormal, disease, process, pathology"
"""`No acute process`: the image is normal, unless it is about a part."""
NOTHING_OF_A_PART = """osseous, bony, bone, skeletal, soft tissue, rib, vascular, mediastinal, pleural, other,
    additional, further, new, abdominal, cardiac, airspace, air space, parenchymal, interstitial, infectious,
    metastatic"""
NOTHING_THAT = "to suggest, to indicate, suggesting, suggestive, concerning, suspicious, consistent, of, for"
"""Behind it: `no findings to suggest pneumonia` is about pneumonia."""
NOT_OF_THE_IMAGE = "physical exam*, laborator*, blood, serolog*, history, biochemistry, sputum, culture*"
"""A sentence with one of these does not call an image normal."""

DENIALS = """no, without, free of, clear of, clearing of, cleared of, negative for, absence of, absent, lack of,
    lacks, lacking, denies, denied, rather than, instead of, as opposed to, neither, nor, not, never, excludes,
    excluded, rules out, ruled out, fails to show, failed to show, unlikely, resolution of, disappearance of,
    removal of"""
"""Before what they deny."""
ENDINGS = """absent, not seen, not visualized, not visualised, not identified, not demonstrated, not detected, not
    evident, not present, not apparent, not appreciated, not noted, not observed, not shown, no longer, excluded,
    ruled out, resolved, cleared, absorbed, disappeared, removed, withdrawn, unlikely, less likely, negative, none"""
"""Behind what they deny."""
ENDED = "resolution of, clearing of, disappearance of, resolved, cleared, absorbed, disappeared"
PARTIAL = """partial*, partly, marked resolution, near complete, near total, incomplete*, minimal resolution, almost
    complete*, nearly, not resolved, not completely, not yet, not fully, some resolution, slow resolution, early
    resolution, gradual resolution, not cleared, slight resolution, significant resolution"""
"""With one of these, what has ended is still there in part."""

DOUBTS = """may, might, could, possible, possibly, possibility, probable, probably, likely, suggest*, suspicious
    for, suspicious of, suspicion, suspected, suspect, concern for, concerning for, worrisome for, question of,
    questionable, query, versus, vs, differential, cannot exclude, can not exclude, can t exclude, cannot rule out,
    can not rule out, can t rule out, difficult to exclude, not exclude, not rule out, rule out, r o, evaluate for,
    assess for, presumed, presumably, consideration of, considered for, equivocal, potential,
    potentially, risk for, risk of, favor*, favour*, mimic*, raise*, raising,
    perhaps"""
"""Before what they leave open."""
DOUBTFUL_ENDINGS = """cannot be ? excluded, can not be ? excluded, can t be ? excluded, could not be ? excluded, not
    ? excluded, not be ? excluded, cannot be ruled out, can not be ruled out, can t be ruled out, not ruled out, not
    be ruled out, possible, suspected, likely, probable, questioned, questionable, in the differential, a
    consideration, be
    considered, may be present, might be present, could be present, to
    be excluded, difficult to exclude, or inflammatory"""
"""Behind what they leave open."""

IDIOMS = """no ? ? change in, no ? ? changes in, no ? ? change, no ? ? changes, without ? ? change, without ? ?
    changes, not ? changed, no ? increase in, no ? decrease in, no ? improvement in, no ? progression of, no ?
    worsening of, no doubt, not only, no further, previously seen, previously noted, previously described,
    previously demonstrated, previously identified, previously reported, previously mentioned, prior to, prior ?
    radiograph*, prior exam*, prior stud*, prior film*, prior ? x ray*, previous ? radiograph*, previous exam*,
    previous stud*, previous film*, previous ? x ray*, not enlarged, not widened, not well seen, not well
    visualized, not well evaluated"""
"""Their words deny and date nothing."""
PAST = "previous, prior, old, healed, past, history of, h o, status post, remote, former, treated"
"""Right before a disease that is over. A healed fracture is still a finding."""
GONE = "resolved"
"""Right before a finding that is not there any more."""
LASTING = ("fracture", "support_devices", "lung_lesion")
NOT_OF_NOW = """if untreated, if left untreated, is one of the, are one of the, differs from, sister, brother,
    mother, father, family history, sometimes associated, commonly associated, in a proportion"""
"""A sentence with one of these is about others, or about a disease as such."""

READINGS = """suggestive of, suspicious for, consistent with, compatible with, in keeping with, typical for, typical
    of, characteristic of, features of, appearance of, appearances of, pattern of, due to, represent*, indicative
    of, classical for, classic for, suggesting, suggests, likely, concerning for, worrisome for"""
VIRUSES = "covid, covid 19, covid19, coronavirus, sars cov 2"
"""A virus that a reading names, such as `suggestive of COVID-19`, stands for its pneumonia."""

TURNS = "but, however, although, though, while, whereas, except"
"""A denial or doubt before them does not reach beyond."""
JOINTS = "and, with, which, who"
HEADS = """is, are, was, were, has, have, had, appears, appear, remains, remain, shows, show, showed, demonstrates,
    demonstrate, demonstrated, reveals, revealed, seen, noted, present, normal, clear, unremarkable, there,
    resolved, without"""
"""Words that make a part between commas and `and` a clause of its own, as denials do."""
AFFIRMING = """a, an, small, tiny, trace, mild, mildly, moderate, moderately, large, minimal, stable, unchanged,
    persistent, increased, increasing, worsening, worsened, improved, improving, extensive, severe, subtle, patchy,
    multiple"""
"""`No pneumothorax, small effusion`: an item that starts so is not denied, unless the list goes on with `or`."""

LEFT = "left, lul, lll, lingula, lingular"
RIGHT = "right, rul, rll, rml, middle lobe"
SIDED = """lung*, lobe*, side*, upper, lower, mid*, base*, basal, apices, zone*, field*, hemithora*, costophrenic, hil*,
    pleural"""
BOTH = "bilateral, bilaterally, biapical, bibasilar, bibasal, each lung, each side"
NO_SIDE = """left lateral, right lateral, left ventric*, right ventric*, left atri*, right atri*, left decubitus,
    right decubitus, left anterior oblique, right anterior oblique, left arm, right arm"""
"""Words of sides that are not the finding's."""
SPARED = "except, except for, sparing, spares, spared, excluding"
"""What follows is where the finding is not."""
PLACES = "in, of, at, within, involving, over, throughout, along, on, affecting, to, through"
"""Between a finding and where it is."""
