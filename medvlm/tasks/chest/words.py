"""Words of English reports of chest radiographs: findings and anatomy. cues.py has what affirms and denies them.

Phrases are separated by commas and matched as whole words in lower-case text, with blanks in place of hyphens. `*`
stands for the rest of a word, `?` for one more word or none. The classes are those of CheXpert (Irvin et al. 2019,
https://arxiv.org/abs/1901.07031); the words are our own.
"""

from __future__ import annotations

NO_FINDING, DEVICES = "no_finding", "support_devices"

FINDINGS = {
    "enlarged_cardiomediastinum": """mediastinal ? widening, widening of the ? mediastinum, widened ? mediastin*,
        wide mediastinum, mediastinal ? enlargement, enlarged mediastin*, enlarged cardiomediastin*, mediastinal
        mass*, mediastinal lymphadenopathy, mediastinal adenopathy, enlargement of the mediastin*, enlargement of
        the cardiomediastin*""",
    "cardiomegaly": """cardiomegaly, cardiac enlargement, enlarged heart, enlarged cardiac, enlarged
        cardiomediastin*, enlarged cardiopericardial, enlargement of the ? heart, enlargement of the cardi*""",
    "lung_opacity": """opacit*, opacif*, ground glass, ggo, ggos, infiltrat*, densit*, shadow, shadows, shadowing,
        hazy, haze, haziness, reticul*, interstitial, airspace
        disease, airspace process*, airspace change*, air space disease, air space process*, air space change*,
        fibrosis, fibrotic, fibrous, scar, scars, scarring, bronchial wall thickening, peribronchial thickening,
        peribronchial cuffing, bronchial cuffing, increased lung markings, increased bronchovascular markings,
        honeycomb*, crazy paving, parenchymal change*, parenchymal disease, white out, whiteout""",
    "lung_lesion": """nodul*, micronodul*, mass, masses, granuloma*, cyst, cysts, cystic, cavit*, tumor*, tumour*,
        neoplas*, malignan*, cancer*, carcinoma*, metasta*, pneumatocele*, lung lesion*, pulmonary lesion*, focal
        lesion*, parenchymal lesion*""",
    "edema": """edema, oedema, vascular congestion, pulmonary congestion, venous congestion, heart failure, cardiac
        failure, chf, fluid overload, volume overload, vascular engorgement, cephalization, vascular redistribution,
        kerley, cardiac decompensation""",
    "consolidation": "consolidat*",
    "pneumonia": "pneumonia*, bronchopneumonia*, infection*, infectious, superinfection",
    "atelectasis": "atelecta*, collapse, collapsed, subsegmental volume loss",
    "pneumothorax": "pneumothora*, hydropneumothora*, hemopneumothora*, haemopneumothora*",
    "pleural_effusion": """effusion*, pleural fluid, fluid in the pleural, fluid in the ? fissure*, hydrothora*,
        hydropneumothora*, hemothora*, haemothora*, empyema*, blunting of the ? costophrenic, blunted ?
        costophrenic, costophrenic angle blunting""",
    "pleural_other": """pleural thickening, thickening of the pleura, pleural plaque*, pleural scar*, pleural
        calcification*, calcified pleura*, fibrothorax, pleural fibrosis, pleural mass*, pleuroparenchymal scar*""",
    "fracture": "fracture*, broken rib*",
    DEVICES: """tube, tubes, catheter*, cannula*, lines, central line, venous line, arterial line, jugular line,
        ij line,
        subclavian line, picc, port a cath, portacath, mediport, pacemaker*, pacer*, icd, defibrillator*, leads,
        sternal wire*, sternotomy wire*, hardware, prosthe*, prosthetic valve*, stent, stents, drain, drains, cvc,
        ett, ngt, swan ganz, tracheostomy, intubat*, balloon pump, ecmo, device, devices, og in place, ng
        in place""",
}
"""Class -> the phrases that mention it."""

NOT_FINDINGS = {
    "lung_opacity": """heart shadow*, cardiac shadow*, liver shadow*, breast shadow*, nipple shadow*,
        cardiomediastinal shadow*, bone densit*, bony densit*, interstitial pneumonia*, interstitial edema,
        interstitial oedema, interstitial pulmonary edema, pleural scar*, pleural fibrosis, pleuroparenchymal scar*,
        metallic densit*""",
    "lung_lesion": """reticulonodular, reticular nodular, reticulo nodular, body mass, mass effect, muscle mass,
        oral cavit*, pleural cavit*, thoracic cavit*, chest cavit*, abdominal cavit*, mediastinal mass*, pleural
        mass*, thyroid nodul*, bone metasta*, osseous metasta*, soft tissue mass*, breast cancer, breast mass*,
        prostate cancer, history of ? cancer""",
    "edema": "soft tissue edema, subcutaneous edema, laryngeal edema, peripheral edema, leg edema",
    "pneumonia": """virus infection*, virus ( hiv ) infection*, hiv infection*, urinary tract infection*, wound
        infection*, skin infection*, infectious disease*, infection control""",
    "atelectasis": "vertebral collapse, collapse of the vertebra*, vertebral body collapse, collapsed vertebra*",
    "pleural_effusion": "pericardial effusion*, joint effusion*",
    DEVICES: "bronchial tube*, kerley ? lines, pleural lines, mediastinal lines, paraspinal lines, psoas lines",
}
"""Class -> phrases that hold its words and mean something else."""

ANATOMY = {
    "lungs": "lung, lungs, lung fields, lung field, lung parenchyma, pulmonary parenchyma, hemithorax",
    "pleura": "pleural space*, pleural surface*, pleural cavit*, pleura, pleural margin*",
    "angles": "costophrenic angle*, costophrenic sulc*, cp angle*, costophrenic recess*",
    "heart": "heart, cardiac, cardiopericardial silhouette",
    "mediastinum": "mediastinum, mediastinal",
    "cardiomediastinum": "cardiomediastin*, cardio mediastin*",
    "vessels": """pulmonary vasculature, pulmonary vascularity, pulmonary vascular markings, pulmonary vessels,
        vasculature, vascularity""",
    "bones": "bones, bony structures, osseous structures, ribs, bony thorax, skeleton, rib cage",
    "image": "chest, cxr, radiograph*, x ray, study, exam, examination, appearance*, film, image*, thorax",
}
"""Parts that are said to be normal or enlarged."""

NOT_ANATOMY = """heart border*, cardiac border*, heart failure, cardiac failure, heart disease, cardiac surgery,
    cardiac arrest, mediastinal lymph*, mediastinal shift, mediastinal drain*, cardiac enlargement, chest pain,
    chest tube*, chest wall, chest ct, ct chest, lung disease*, lung zone*, lung base*, lung volume*, lung cancer,
    lung nodul*, lung opacit*, lung mass*, lung apex, lung apices, lung lesion*, lung transplant, lung marking*"""

DENIED_BY_NORMAL = {
    "lungs": ("lung_opacity",),
    "pleura": ("pleural_effusion", "pneumothorax"),
    "angles": ("pleural_effusion",),
    "heart": ("cardiomegaly",),
    "mediastinum": ("enlarged_cardiomediastinum",),
    "cardiomediastinum": ("enlarged_cardiomediastinum", "cardiomegaly"),
    "vessels": ("edema",),
    "bones": ("fracture",),
}
"""Part -> what it does not have where it is normal. A normal image has no finding."""
ENLARGED_PARTS = ("heart", "mediastinum", "cardiomediastinum")
"""If these are enlarged, they have what they do not have where they are normal."""
SIDELESS = ("cardiomegaly", "enlarged_cardiomediastinum", NO_FINDING)
