"""Words and letters that the patterns of identifying text are made of."""

from __future__ import annotations

DAY = r"(?:0?[1-9]|[12]\d|3[01])"
MONTH_NUMBER = r"(?:0?[1-9]|1[0-2])"
YEAR = r"(?:19|20)\d\d"

_ENGLISH = "January February April June July August September October November December"
_OTHERS = """
    Januar Jänner Februar März Maerz Marz Mai Juni Juli Oktober Dezember
    janvier février fevrier mars avril juin juillet août aout septembre octobre novembre décembre decembre
    enero febrero marzo abril mayo junio julio agosto septiembre setiembre octubre noviembre diciembre
    gennaio febbraio aprile maggio giugno luglio settembre ottobre dicembre
    janeiro fevereiro março marco maio junho julho setembro outubro novembro dezembro
    januari februari maart mei augustus
"""
_SHORT = """
    jan janv ene gen feb febr fév fev févr fevr mar mär mrz maa mrt apr avr abr may mai mei mag jun giu jul juil lug
    aug aou aoû ago sep sept set oct okt ott out nov dec dez déc dic
"""


def one_of(words: str) -> str:
    """A pattern of any of the words, the longest first."""
    return f"(?:{'|'.join(sorted(set(words.split()), key=lambda word: (-len(word), word)))})"


SAFE_MONTH = one_of(_ENGLISH)
"""English months that are no other word."""
SPELLED_MONTH = rf"(?:{SAFE_MONTH}|(?-i:May|March|MAY|MARCH|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?))"
"""`may` and `march` are also words, `oct` and `dec` abbreviations: these count only if they are spelled like months."""
FULL_MONTH = one_of(_ENGLISH + _OTHERS)
ANY_MONTH = one_of(f"{_ENGLISH} {_OTHERS} {_SHORT} March")
"""With a year beside it."""

_CASED = [chr(code) for code in (*range(0x41, 0x590), *range(0x1E00, 0x2000))]
_UPPER = "".join(char for char in _CASED if char.isupper() or char.istitle())
_LETTER = r"[^\W\d_]"
INITIAL = rf"(?-i:[{_UPPER}](?:\. ?| ))"
SCRIPT = "[\u0590-\u08ff\u0900-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
"""Letters without upper case."""
SURNAME = (
    "[王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏"
    "钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段钱汤尹黎易常武乔贺赖龚文張劉陳楊趙黃吳孫馬羅鄭謝韓]"
)

# Words in capitals that follow a title or a label and are no name. A name that is one of them is not seen.
_NO_NAME = """
    a abdomen abdominal about above absence absent accident achados acute adult advanced after age aged agrees
    aktuell all alle also alter an anaesthesia analysis anamnese and anesthesia anesthesiologist anesthesiology
    angiography ankle anonym anonymised anonymisiert anonymized anonymous antérieur any anzahl aorta ap apical
    appointment are artery artifact as assente assessment at aucun aucune aufnahme ausente available avec axial back
    background bacterial baseline be because before befund befunde bei beide below beurteilung bilateral bild biopsy
    bladder blood board body bone both bowel brain breast bronchial but by calcification called can cancer cardiac
    cardiology care cavity cephalic chart chest child circle class clear clinic clinical colon committee comparison
    complete completed computed con conclusion conclusión conference confirmed congenital consensus consider
    contrast contrast-enhanced coronal cough could cr ct cyst dans das data date day days de dead deceased deferred
    degenerative deidentified delayed dem den denied denies department der derecha derecho dermatology des
    desconhecido desconocido details detector device diabetes diagnosis diagnostic did die digital discussed disease
    dolor dolore doppler dor douleur dr droit du ductal during dx dyspnea each echo echocardiography edema een
    effusion ein eine el elbow elective elevated emergency en endocrinology enlarged ent er es et evaluation exam
    examination exams fall female femenino feminino femme femmina femur fever fibrosis film films finding findings
    follow following for fracture fragestellung frau from frontal full further gallbladder gastro gastroenterology
    gauche geen general gi good gu gynecology hallazgos hand has he head headache healthcare heart her here herr
    herrn het hip his history hombre home homme hospital hx icu identified if im image images imaging impression
    improved in inconnu increased indicated indication indikation infant infection information informed initial
    injury inpatient intensive internal interpretation interval is ist it its izquierda izquierdo joint kein keine
    kidney klinik klinische knee la large las lateral le left les lesion lesions linke links liver local los low
    lower lumbar lung lungs lymph machine male mammography man many maschio masculino masked mass may medical
    medicine medium met mild mit mm mobile moderate mr mri mujer multidisciplinary multiple must männlich na nach
    name named neck negative negativo nein nenhum nenhuma neonatal nessun nessuna neurology neurosurgery new newborn
    nicht nil ninguna ninguno nipple no nodule non none normal normale not note nothing notified nur nurse nurses
    nursing obgyn obliques observer obstetrics of ohne old on onbekend oncology one only operator or ordered
    orthopaedics orthopedic orthopedics other others our out outpatient pa pacs pain panel partial pas patient
    patients pediatrics pelvis pending perfusion permanent phone physical physician physicians physiotherapy plain
    plan planned pleural pneumonia por portable portal position positive possible post posterior practitioner
    pregnancy pregnant present previous primary prior procedure prone protocol provider provisional psychiatry pt
    pulmonary quality question radiograph radiographer radiographs radiologia radiologie radiologist radiologists
    radiology radiología ray read reader readers reason reasons received recent rechte rechts recommend
    recommendation recommended redacted reduced referral refused regular rehabilitation removed renal report
    reported reports request requested resident residents respiratory result results retired reviewed rheumatology
    rib right room routine sagittal said same sans saw says scan scanner scans sconosciuto screening see seldinger
    self sem senior senza sequence sequences series service severe she shortness shot should shoulder sie sign signs
    similar sin since sind single sinus six skin small some sonography soon specialist specimen spectral spine
    stable staff standard standing status stereotactic still stomach student study subject supine surgeon surgery
    surgical suspected system tbd team technique technologist technologists termin test that the their then
    therapist therapy there these they thinks third this thoracic thorax those three tissue to today torax trainee
    transplant trauma triage tube tumor tumour two tórax ultrasound un una unauffällig unbekannt und under unit
    unknown unremarkable unsigned unspecified until upper urgent urology using vascular vein vergleich very view
    views visit von vor vrouw wants ward was we weiblich well were when where which while who will wird with
    withheld within without woman worsening would wrist written x xr xxx xxxx xxxxx yes you zeigt zonder zum zur
"""
NO_NAMES = frozenset(_NO_NAME.split())
NO_NAME = rf"(?!(?:{'|'.join(sorted(NO_NAMES))})(?!\w|'\w))"
"""Bounded like every pattern that can start within its own match: otherwise a long line of hyphens takes hours."""
NAME = rf"(?:(?-i:(?=[{_UPPER}])){NO_NAME}{_LETTER}(?:{_LETTER}|['-](?={_LETTER})){{1,40}}(?!\w| ?:))"
_PARTICLE = r"(?:(?:van|von|der|den|de|la|del|della|di|da|dos|das|do|du|el|al|bin|ibn|le|ten|ter|zu|zum|vom) ){0,3}"
PERSON = rf"(?:{INITIAL}{{0,3}}{_PARTICLE}{NAME}|{SCRIPT}{{2,12}})"
"""A name with initials and particles, or one in a script without upper case."""
