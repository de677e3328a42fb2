"""Patterns of names beside a title, a label or a signature, in the languages that the guide names."""

from __future__ import annotations

from medvlm.io.phi.words import INITIAL, NAME, NO_NAME, PERSON, SCRIPT, SURNAME

_TITLE = (
    r"(?<![\w.])(?-i:Drs?|Mr|Mrs|Ms|Miss|Mister|Prof|PD|Priv\.-Doz|Professor|Doctor|Sir|Nurse|Rev|Capt|Sgt"
    r"|Dr\.?-?Ing|Herrn?|Frau|Hr|Fr|Frl|Fräulein|Doktor|(?:Ober|Chef|Stations|Haus|Assistenz)(?:arzt|ärztin)"
    r"|Mme|Mlle|Mmes|Messieurs|Madame|Mademoiselle|Monsieur|[Dd]octeur|Pr|[Pp]rofesseure?"
    r"|Sr|Sra|Srta|Señor(?:a|ita)?|Senor(?:a|ita)?|[Ss]eñor(?:a|ita)?|Don|Doña|doña|Dña|Dra|Drª|Lic|[Dd]octora"
    r"|[Pp]rofesora?"
    r"|Sig|Sig\.?ra|Sig\.?na|[Ss]ignor[ae]?|Dott|Dott\.?ssa|Dr\.?ssa|[Dd]ottor(?:e|essa)?|Prof\.?ssa|[Pp]rofessor"
    r"(?:e|essa)"
    r"|[Ss]enhora?|[Dd]outora?|Dhr|Mevr|Mw|Mej|[Mm]evrouw|[Mm]eneer|de heer|[Dd]okter|drs|doctor|professor)"
)
_DEGREES = r"(?:[ -]?(?:med|dent|phil|rer|nat|habil|univ|vet|h\.? ?c|Dr|Prof|ssa|ra)\b\.?){0,4}"
_CREDENTIAL = (
    r"(?-i:M\.?D\.?|D\.O\.|Ph\.?D\.?|R\.?N\.|PA-?C|FRC[RPS]\w{0,3}|FACR|MBBS|MBChB|MBBCh|MRCP|DMD|DDS|CRNA|RDMS"
    r"|RT ?\(R\)|APRN|DNP)"
)
_TO_SIGN = (
    r"(?:signed|authenticated|dictated|transcribed|typed|verified|approved|interpreted|reported|requested|ordered|read"
    r"|reviewed|validated|finali[sz]ed|attested|released|entered|prepared|performed|examined|authored|referred"
    r"|ref\.?|seen)"
)
_SIGNED_OTHERS = (
    r"(?:(?:elektronisch |digital )?(?:unterschrieben|befundet|gezeichnet|diktiert|geschrieben|freigegeben"
    r"|erstellt|vidiert"
    r"|validiert|signiert|angefordert|überwiesen|zugewiesen) (?:von|durch)"
    r"|(?:sign[ée]e?|dict[ée]e?|valid[ée]e?|r[ée]dig[ée]e?|relue?|lue?|interpr[ée]t[ée]e?|prescrite?|adress[ée]e?"
    r"|demand[ée]e?"
    r"|transcrite?|r[ée]alis[ée]e?)(?: [ée]lectroniquement)? par"
    r"|(?:firmad[oa]|dictad[oa]|informad[oa]|transcrit[oa]|validad[oa]|le[ií]d[oa]|solicitad[oa]|realizad[oa]"
    r"|remitid[oa])"
    r"(?: electr[óo]nicamente| digitalmente)? por"
    r"|(?:firmat[oa]|refertat[oa]|dettat[oa]|validat[oa]|richiest[oa]|eseguit[oa])(?: digitalmente"
    r"| elettronicamente)? da"
    r"|(?:assinad[oa]|laudad[oa]|ditad[oa]|solicitad[oa])(?: eletronicamente| digitalmente)? por"
    r"|(?:ondertekend|gedicteerd|verslagen|beoordeeld|aangevraagd|verwezen) door|a cura di|compte[ -]rendu par)"
)
_ROLE = (
    r"(?:referring|attending|ordering|requesting|primary care|consulting|treating|performing|interpreting|family"
    r"|admitting)?"
    r" ?(?:physician|doctor|provider|clinician|radiologist|radiographer|sonographer|technologist|technician|tech"
    r"|attending|dr\.?|md"
    r"|resident|fellow|consultant|surgeon|referrer|referring|pathologist|author|operator|signature|signed|dictated"
    r"|interpreter|GP|PCP|transcriptionist|transcriber|scribe|dictator|reader|reviewer|reporter|verifier|approver"
    r"|radiologe|radiologin|(?:behandelnder |überweisender |zuweisender |verantwortlicher )?(?:arzt|ärztin)"
    r"|zuweiser(?:in)?"
    r"|überweiser(?:in)?|einsender(?:in)?|befunder(?:in)?|untersucher(?:in)?|unterschrift|MTRA?"
    r"|radiologue|m[ée]decin(?: traitant| demandeur| r[ée]f[ée]rent| radiologue| prescripteur)?|prescripteur"
    r"|correspondant|signature"
    r"|sign[ée]|radi[óo]log[oa]|m[ée]dic[oa](?: solicitante| informante| responsable?| responsável| tratante"
    r"| refertatore"
    r"| richiedente| curante| radiologo)?|firmad[oa]|firmat[oa]|firma|facultativo|t[ée]cnico|assinatura|assinad[oa]"
    r"|radioloog|aanvrager|verwijzer|(?:behandelend )?arts|huisarts|laborant)"
)
_KIN = (
    r"(?:patient(?:in)?|pt\.?|paciente|paziente|pati[eë]nt|mother|father|parent|spouse|wife|husband|son|daughter"
    r"|brother|sister"
    r"|guardian|next of kin|NOK|(?:emergency )?contact|kontakt|mutter|vater|ehefrau|ehemann|mère|père|madre|padre"
    r"|mãe|pai|moeder"
    r"|vader)"
)
_NAME_LABEL = (
    r"(?<!\w)(?<!study )(?<!series )(?<!sequence )(?<!protocol )(?<!file )(?<!device )(?<!drug )(?<!brand )(?<!trade )"
    r"(?<!generic )(?<!product )(?<!test )(?<!species )(?<!common )(?<!model )(?<!scanner )(?<!machine )"
    r"(?<!series_)(?<!file_)"
    r"(?:(?:patient(?:'s|en|in)?|pt|first|last|full|family|given|sur|middle|maiden|legal|preferred|birth)[ _-]?)?"
    r"(?:name|names|fore ?name|surname|nombres?|apellidos?|pr[ée]nom|nom|nom de (?:naissance|famille|jeune fille)"
    r"|nachname"
    r"|vorname|geburtsname|familienname|nome(?: completo)?|cognome|sobrenome|naam|voornaam|achternaam|familienaam)"
    r"(?: (?:d[eou]s?|del|della|der|of|of the|van de)? ?(?:patient\w*|paciente|paziente|pati[eë]nt\w*|versicherten))?"
)
_FUNCTION = (
    r"(?!(?:of|the|and|for|is|was|that|this|at|in|on|to|or|not|unknown|none|redacted|anonym\w*|removed|withheld)\b)"
)
_CHINESE_SIGNER = (
    r"(?:(?:患者|病人)?姓名|患者|病人|(?:报告|審核|审核|检查|書寫|书写|申请|主治|主管|诊断|接诊|责任|送检)?(?:医生|医师|醫生|醫師|护士)"
    r"|报告[人者]|审核[人者]|书写者|诊断者|签名|簽名|签字|联系人|家属|技师|操作者|录入员)"
)

NAMES = {
    "name after a title": (
        rf"{_TITLE}\b\.?{_DEGREES} ?(?<!\d Fr\. )(?<!\d Fr )(?:{PERSON}|{SURNAME}(?![\u4e00-\u9fff]))",
        rf"(?<![\w.])(?-i:DRS?\.? |MRS?\. |MRS |MS\. |PROF\.? |MISS ){NO_NAME}(?-i:[A-ZÀ-Þ][A-ZÀ-Þ'-]{{2,}})(?!\w| ?:)",
        rf"(?<![\w.])DR\.? {NAME}",
        rf"(?<![\w.])(?-i:M)\. {NAME} (?:est|a|né|vu|âgé|présente|consulte)\b",
        rf"\b(?:chez|pour|concernant|de|patient) (?-i:M)\. {NAME}",
        (
            rf"(?<![\w.])(?<!\d )(?-i:drs?\.? |mrs\.? |mr\. |ms\. |prof\. ){NO_NAME}"
            r"(?!(?:is|was|has|had|are|who|will|may|did|does|be|been)\b)[a-z][a-z'-]{2,}(?!\w)"
        ),
        rf"(?<!\w){NAME},? {_CREDENTIAL}(?!\w)",
        rf"(?<!\w){NAME}, (?-i:DO|RN|NP|LPN|DPM)(?!\w)",
        rf"(?<!主){SURNAME}[\u4e00-\u9fff]{{0,2}}(?:医生|医师|醫生|醫師|主任|教授|先生|女士|小姐|护士长?|护师|大夫|院长)",
    ),
    "name after a label": (
        rf"{_NAME_LABEL} ?(?:[:=]|- |is |was ) ?(?:(?:mr|mrs|ms|dr)\.? )?{PERSON}",
        rf"{_NAME_LABEL} ?[:=] ?{NO_NAME}{_FUNCTION}[a-z][a-z'-]{{1,}}(?!\w| ?:)",
        rf"\b(?:patient(?:'s)?|pt) name {PERSON}",
        rf"\b{_KIN}(?:,| is| was)? ?[:=] ?{PERSON},? ?(?:{INITIAL}|{NAME})",
        rf"\b{_KIN} ?[:=] ?{INITIAL}{{1,3}}{NAME}",
        rf"\b{_KIN} ?[:=] ?{SURNAME}[\u4e00-\u9fff]{{1,2}}",
        rf"(?<!\w){_ROLE} ?[:=] ?{PERSON}",
        rf"\b(?:electronically |digitally |e-?)?{_TO_SIGN}(?: electronically| digitally)? by ?[:=] ?(?:the )?{PERSON}",
        rf"\b(?:signed|authenticated|dictated|transcribed|typed|verified|approved|interpreted)(?: by)? ?[:=] ?{PERSON}",
        rf"\b{_TO_SIGN}(?: electronically| digitally)?(?: (?:and|&) {_TO_SIGN})? by (?:the )?{PERSON}",
        rf"\b{_SIGNED_OTHERS} ?:? ?{PERSON}",
        rf"(?<!\w)(?:/s/|gez\.|sgd\.?|i\. ?[AV]\.) ?:? ?{PERSON}",
        rf"\b(?:courtesy of|credits? to|contributed by) {NAME},? (?-i:[A-Z])",
        (
            r"\b(?:patient|man|woman|boy|girl|child|infant|baby|lady|gentleman|mother|father|son|daughter|wife|husband|"
            rf"brother|sister)(?:,)?(?: (?:is|was))?,? (?:named|called) {PERSON}"
        ),
        rf"\b(?:my name is|his name is|her name is|ich heiße|je m'appelle|me llamo|mi chiamo) {PERSON}",
        (
            r"\b(?:discussed|communicated|conveyed|relayed|called|paged|reported|informed|notified|spoke|spoken)"
            rf"(?: \w+){{0,3}}? (?:with|to|by) (?:{INITIAL}{{1,3}}{NAME}|{NAME} {NAME})"
        ),
        (
            r"\b(?:regards|sincerely|yours truly|grüßen|grüße|cordialement|atentamente|distinti saluti"
            r"|atenciosamente|groet)"
            rf",? ?{PERSON}"
        ),
        rf"{_CHINESE_SIGNER} ?[:：] ?[\u4e00-\u9fff]{{2,4}}(?<!女性)(?<!男性)",
        rf"(?:报告|审核|检查|书写|主治|主管)(?:医生|医师) {SURNAME}[\u4e00-\u9fff]{{1,2}}",
        rf"(?:患者|病人){SURNAME}[\u4e00-\u9fff]{{1,2}}[，,、 ]{{0,2}}[男女]",
        rf"(?:الاسم|اسم المريض|имя|фамилия|пациент) ?[:：] ?(?:{SCRIPT}{{2,}}|{NAME})",
    ),
    "name with a caret": (r"(?<!\w)[^\W\d_]{2,40}\^[^\W\d_]",),
}  # fmt: skip
"""Kind -> patterns, for text that was spelled plainly."""
