"""Patterns of numbers and addresses that belong to one person: of telephones, records, accounts, devices, houses."""

from __future__ import annotations

from medvlm.io.phi.words import NAME

_CODE = r"(?:[A-Z]{0,6}-?|[A-Z]{1,2} )\d[\dA-Z./-]+[\dA-Z](?!\w)"
_LONG_CODE = r"[A-Z]{0,5}-?\d[\dA-Z./-]{3,}[\dA-Z](?!\w)"
_NUMBER = r"(?:ID(?:entifier|entification)?|no|nr|num(?:ber|ero|éro)?|n[uú]m(?:ero)?|n[°ºo]|nummer|number|code|#)"
_UNIT = r"(?! ?(?:[cmnµu]m|m[lgs]|Hz|kV|mAs|HU|%)\b)"
_HOLDERS = (
    r"(?:(?:med(?:ical|\.)? |health )?rec(?:ord)?|acc(?:ession)?|patient(?:en)?|pat|hosp(?:ital)?|exam"
    r"(?:ination)?|study|order|visit|encounter"
    r"|account|acct|case|folio|chart|NHS|SSN|insurance|policy|member(?:ship)?|subscriber|beneficiary|health plan|claim"
    r"|passport|(?:driver'?s? )?licen[cs]e|DL|certificate|ser(?:ial)?|device|implant|equipment|specimen|request"
    r"|requisition|referral"
    r"|admission|unit|badge|employee|staff|student|registration|register|identity(?: card)?|(?:license )?plate|vehicle"
    r"|customer|client|tax|social(?: security| insurance)?|national|medicare|medicaid|credit card|card|UR|URN|invoice)"
)
_SPOKEN = (
    r"(?:dossier|patient|s[ée]curit[ée] sociale|s[ée]cu|examen|acc[eè]s|passeport|permis|compte|police|mutuelle"
    r"|adh[ée]rent"
    r"|s[ée]rie|carte|historia(?: cl[ií]nica)?|expediente|paciente|afiliaci[óo]n|seguridad social|tarjeta"
    r"|p[óo]liza|cuenta"
    r"|serie|pasaporte|licencia|estudio|folio|identificaci[óo]n|c[ée]dula|cartella(?: clinica)?|pratica"
    r"|accettazione|tessera"
    r"|esame|paziente|conto|polizza|passaporto|patente|targa|prontu[áa]rio|registro|cart[ãa]o|conv[êe]nio"
    r"|passaporte|s[ée]rie"
    r"|conta|ap[óo]lice|atendimento|exame|utente)"
)
_STRONG = (  # a number after it is its number
    r"(?:M\.?R\.?N|accession|SSN|URN|NHI|NHC|IPP|DNI|NIE|NIF|NIR|CPF|KVNR|BSN|PESEL|NPI|VIN|IMEI|HICN|MBI|AHV"
    r"(?:-?nr\.?)?|CNS|EMPI|UDI"
    r"|hosp(?:ital)? no|medicare|medicaid|S/N|registro|IBAN|DEA|CRM(?:[-/][A-Z]{2})?|passport|NHS"
    r"|(?:driver'?s?|driving) licen[cs]e|(?:licen[cs]e|number|registration) plate|kennzeichen"
    r"|plaque d'immatriculation|immatriculation"
    r"|matr[íi]cula|targa|historia cl[ií]nica|H\.?C\.?(?: ?n[ºo°])|expediente|cartella(?: clinica)?|prontu[áa]rio"
    r"|tessera sanitaria"
    r"|codice (?:fiscale|paziente|sanitario)|cart[ãa]o (?:do )?SUS|c[ée]dula|personalausweis|reisepass|CURP|RUT"
    r"|CUIT|utente"
    r"|dossier|dossiernummer|last four|ssn ending(?: in)?)"
)
_WEAK = r"(?:ACC|Acc|PID|SN|INS|FIN|HC|CHI|NIP|NSS|NDA|RG|TIN|EIN|CSN|MPI|UR|SIP|CIP|C\.?F\.?)"
_GERMAN = (
    r"(?:patient(?:en)?|pat|fall|aufnahme|auftrags?|untersuchungs?|(?:kranken)?versicher(?:ten|ungs)"
    r"|sozialversicherungs?|SV"
    r"|steuer|personalausweis|ausweis|reisepass|konto|serien|geräte|histologie|einsende|einsendungs|kassen"
    r"|mitglieds?|journal"
    r"|röntgen|archiv|patiënt|dossier|polis|rekening|serie|verzekerings?|burgerservice|paspoort|klant|onderzoeks?"
    r"|opname)"
)
_CHINESE = (
    r"(?:住院|门诊|門診|病历|病歷|病案|检查|檢查|影像|登记|放射|超声|CT|MR|MRI|DR|X线|片|身份证|护照|医保|社保|就诊|就诊卡|卡|病人|患者|账|车牌|手术|病理)"
    r"(?:号码?|號碼?|编号|ID)"
)
_PHONE = (
    r"(?:tel(?:ephone|efon|[ée]fono|[ée]phone|efone|efoon)?|t[ée]l|phone|ph|fax|pager|beeper|bleep|mobile|mobil"
    r"|mob|cell(?:ulare)?"
    r"|celular|handy|m[óo]vil|portable|telefax|whatsapp|contact no|rufnummer|ruf)"
)
_EN_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Highway|Hwy|Terrace|Square|Drive|Parkway|Pkwy|Crescent"
    r"|Court|Close|Place)"
)
_STATE = (  # without CT, which is a modality
    "A[LKZR]|C[AO]|D[EC]|FL|GA|HI|I[DLNA]|K[SY]|LA|M[EDAINSOT]|N[EVHJMYCD]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[TA]|W[AVIY]"
)
_OF = r"(?:(?:de|du|des|del|della|di|da|do|das|dos|la|le|les|las|los|el|d'|l') ?){0,3}"

NUMBERS = {
    "telephone number": (
        (
            rf"(?<![\w.+-])(?:\+?\d{{1,3}}[ .-])?(?:\(\d{{2,5}}\) ?|\d{{3}}[ .-])\d{{3}}[ .-]\d{{4}}(?![\w-]"
            rf"|[.,]\d){_UNIT}"
        ),
        r"(?<!\w)(?:\+|00)\d{1,3}[ .-]?(?:\(\d+\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}(?!\w)",
        r"(?<![\w.,+-])\(\d{2,5}\) ?\d{4,5}[ -]\d{4}(?!\w)",
        r"(?<![\w.,-])0\d{1,4}[ /-]\d{3,4}[ -]?\d{3,5}(?![\w-]|[.,]\d)",
        r"(?<![\w.,-])0[1-9](?:[ .-]\d\d){4}(?![\w-]|[.,]\d)",
        r"(?<![\w.,-])[67]\d\d \d\d \d\d \d\d(?![\w-]|[.,]\d)",
        r"(?<![\w.,-])[6-9]\d \d{3} \d\d \d\d(?![\w-]|[.,]\d)",
        r"(?<![\w.,-])1[3-9]\d[ -]\d{4}[ -]\d{4}(?![\w-]|[.,]\d)",
        rf"\b{_PHONE}\b\.?(?: ?{_NUMBER}\.?)?(?: is| at)?[: ]{{0,3}}[+(]?\d[\d ()./-]{{5,}}",
        r"\b(?:pager|beeper|bleep|extension no|durchwahl|DECT|interno|poste|ext)\b\.?[:# ]{0,3}\d{4,6}(?![\w-]|[.,]\d)",
        (
            r"\b(?:call|called|dial|text|ring|phoned?|reach(?:ed|able)?|contact(?:ed)?|callback)(?: \w+){0,3}?"
            r"(?: at| on)?:?"
            rf" \d{{3}}[ .-]\d{{4}}(?!\d){_UNIT}"
        ),
        r"(?:电话|電話|手机|手機|联系方式|传真)(?:号码)?\W{0,3}[+(]?\d[\d ()-]{5,}",
    ),
    "e-mail address": (
        r"(?<![\w.+-])[\w.+-]{1,64} ?@ ?[\w-]+(?:\.[\w-]+)+",
        r"(?<![\w.+-])[\w.+-]{1,64} ?[(\[] ?at ?[)\]] ?[\w-]{1,60}(?: ?(?:\.|[(\[] ?dot ?[)\]]| dot ) ?[\w-]{1,60})",
    ),
    "web or network address": (
        r"\b(?:https?|ftps?|sftp|file|dicom|ssh)://\S",
        r"(?<![\w@.-])www\.[\w-]+\.\w",
        r"(?<![\w@.-])[\w-]{2,60}(?:\.[\w-]{2,60})?\.(?:com|org|net|edu|gov)(?![\w-])",
        r"(?<![\w.-])[\w-]{2,60}\.(?:de|fr|es|it|nl|pt|cn|uk|ch|at|eu|info|io|health)/\w",
        (
            r"(?<![\w.])(?<!version )(?<!ver\. )(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)"
            r"(?![\w]|\.\d)"
        ),
        r"(?<![\w:])(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}(?![\w:])",
        r"(?<![\w:])(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}(?![\w:])",
        r"(?<!\w)[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?!\w)",
    ),
    "social security number": (r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])", r"\bSSN\W{1,3}\d{3}[ -]\d\d[ -]\d{4}"),
    "record number": (
        rf"\b{_HOLDERS}\.?(?:[ -]card)?\W{{0,2}}(?:{_NUMBER}[^\w\n]{{1,4}}|# ?){_CODE}",
        rf"\b{_STRONG}\b\.?(?: ?{_NUMBER})?[^\w\n]{{0,4}}{_CODE}",
        (
            rf"\b(?:{_WEAK}|acct|account|serial|policy|claim|chart|badge|specimen|case|passport|licen[cs]e"
            rf"|certificate)\b\.?(?:[ ]?[:#]|[ ]{_NUMBER}\.?:?) ?{_CODE}"
        ),
        (
            rf"(?<!\w)(?:(?-i:{_WEAK})|policy|account|acct|member|claim|chart|folio|badge|registration|serial"
            rf"|certificate"
            rf"|insurance|beneficiary|specimen) {_LONG_CODE}"
        ),
        (
            rf"\b(?:n[°ºo]|no|nr|n|num[ée]ro|n[uú]m(?:ero)?)\b[.°]?[ºo°]? ?(?:de |du |do |da |di |della )?(?:la "
            rf"|l')?{_SPOKEN}\W{{1,4}}{_CODE}"
        ),
        rf"\b{_SPOKEN}[ -]?(?:n[°ºo]|no|nr|n|num[ée]ro|n[uú]m(?:ero)?|ID)\b\.?[^\w\n]{{0,3}}{_CODE}",
        rf"\b{_GERMAN}\.?[ -]?(?:nummer|nr\b\.?|ID\b)[^\w\n]{{0,3}}{_CODE}",
        r"(?<!\w)(?:S|SP|SU|H|HS|C|CY|P)-?\d\d-\d{4,6}(?!\w)",
        rf"{_CHINESE}\W{{0,3}}[A-Z]{{0,4}}\d[\dA-Z-]{{2,}}",
    ),
    "long number": (
        r"(?<![\w.,-])(?<!PMID )(?<!PMID: )(?!NCT|PMC|PMID|GSE|C\d{7}(?!\d))[A-Z]{0,3}\d{7,}[A-Z]{0,2}(?!\w|[.,]\d)",
        r"(?<![^\W_])(?!NCT|PMC|PMID|GSE|DOI)[A-Z]{1,5}[_-]\d{7,}(?!\w|[.,]\d)",
        r"(?<![\w.,-])(?!NM|NP|NR|NC|NG|XM|XP|rs)[A-Z]{1,4}_\d{5,}(?![^\W_])",
    ),
    "national or account number": (
        r"(?<!\w)(?-i:[A-Z]{2})\d\d(?: ?(?-i:[A-Z0-9]{4})){3,7}(?: ?(?-i:[A-Z0-9]{1,4}))?(?!\w)",
        r"(?<![\w.])756[. ]?\d{4}[. ]?\d{4}[. ]?\d\d(?!\w)",
        r"(?<![\w.])[12] ?\d\d ?(?:0[1-9]|1[0-2]|[2-9]\d) (?:\d\d|2[AB]) ?\d{3} ?\d{3}(?: ?\d\d)?(?!\w)",
        r"(?<![\w.])\d{3}\.\d{3}\.\d{3}-\d\d(?!\w)",
        r"(?<![\w.])\d{1,2}\.\d{3}\.\d{3}-?[\dA-Z](?!\w)",
        r"(?<!\w)(?-i:[XYZ]-?\d{7}-?[A-Z])(?!\w)",
        r"(?<!\w)(?:[A-Z]{6}\d\d[A-Z]\d\d[A-Z]\d{3}[A-Z]|[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z\d]\d)(?!\w)",
        r"(?<!\w)(?-i:[A-CEGHJ-PR-TW-Z]{2}) ?\d\d ?\d\d ?\d\d ?(?-i:[A-D])(?!\w)",
        r"(?<!\w)(?-i:[1-9][A-Z][A-Z0-9]\d-?[A-Z][A-Z0-9]\d-?[A-Z]{2}\d\d)(?!\w)",
        r"(?<![\w.])\d{4}([ -])\d{4}\1\d{4}(?:\1\d{4})?(?![\w-]|[.,]\d)",
        r"(?<![\w.,-])\d\d ?\d{6} ?(?-i:[A-Z]) ?\d{3}(?!\w)",
        r"(?<![\w.-])\d\d\.\d\d\.\d\d-\d{3}\.\d\d(?!\w)",
        r"(?<![\w.,-])\d{6}[-+]\d{4}(?![\w-])",
        r"(?<!\w)(?-i:(?=[A-Z]*\d)(?=\d*[A-Z])[A-HJ-NPR-Z0-9]{11}\d{6})(?!\w)",
        r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-Z]·?[A-Z0-9]{5,6}(?!\w)",
        (
            r"\b(?:(?:licen[cs]e|number|registration) plate|plate (?:number|no\.?)|kennzeichen"
            r"|plaque d'immatriculation|immatriculation|matr[íi]cula|targa)"
            r"\W{1,3}(?=[A-Z -]{0,6}\d)[A-Z0-9]{1,3}[A-Z0-9 -]{3,8}"
        ),
    ),
    "UID": (r"(?<![\w.])[0-2](?:\.\d+){6,}(?!\w)",),
    "postal address": (
        (
            rf"(?<![\w.])\d{{1,5}}[A-Za-z]? (?:(?-i:[NSEW])\.? )?(?:{NAME} ){{1,3}}(?-i:{_EN_STREET}"
            rf"|{_EN_STREET.upper()})(?!\w)"
        ),
        r"(?<![\w.,])\d{1,5} (?-i:[a-z]{3,20} (?:street|avenue|boulevard|lane|road))(?![\w-])",
        (
            r"(?<!\w)(?-i:[A-ZÄÖÜ])[a-zäöüß-]{2,40}(?:stra(?:ße|sse)|str\.|(?<!tem)(?<!uft)(?<!llen)(?<!arn)"
            r"(?<!angs)weg|platz|allee|gasse|ufer) \d{1,4}[a-z]?\b"
        ),
        rf"(?<!\w){NAME} (?-i:Straße|Strasse|Str\.|Weg|Platz|Allee|Gasse|Ufer) \d{{1,4}}[a-z]?\b",
        rf"(?<!\w){NAME},? (?-i:{_STATE}),? \d{{5}}(?:-\d{{4}})?(?!\w)",
        (
            r"\b(?:P\.? ?O\.? ?Box|Postfach|boîte postale|apartado(?: de correos)?|casella postale|caixa postal"
            r"|postbus) \d+"
        ),
        r"\b(?:apt|apartment|wohnung)\b\.? ?#?\d{1,4}[A-Z]?(?!\w)",
        r"(?<![\w.,])\d{1,4}(?: ?(?:bis|ter))?,? (?:rue|avenue|av\.|boulevard|bd|chemin|impasse|allée|quai|place"
        r"|route) "
        rf"{_OF}(?:{NAME}|paix|liberté|gare|république)",
        (
            rf"(?<!\w)(?:calle|c/|avda\.?|avenida|plaza|pza\.?|paseo|carretera|rua|travessa|praça|alameda) {_OF}{NAME}"
            rf"(?: {NAME}){{0,3}},? (?:n[ºo]\.? ?)?\d{{1,4}}"
        ),
        (
            r"(?<!\w)via (?-i:[A-ZÀ-Þ][a-zß-ÿ]{2,}(?: [A-ZÀ-Þ][a-zß-ÿ]{2,}){0,3}),? (?:n\.? ?)?\d{1,3}(?![\w-]|[.,]\d"
            r"| ?(?:Fr|G|gauge|[cm]m|ml)\b)"
        ),
        (
            rf"(?<!\w)(?:(?-i:VIA)|viale|piazza|corso|largo|vicolo) {_OF}{NAME}(?: {NAME}){{0,3}},? "
            rf"(?:n\.? ?)?\d{{1,4}}(?!\w)"
        ),
        r"(?<!\w)(?-i:[A-Z])[a-zëéïü-]{2,30}(?:straat|laan|gracht|plein|kade|singel|steeg|dreef) \d{1,4}",
        r"[\u4e00-\u9fff]{1,8}(?:路|街|大道|巷|弄|胡同)\d{1,5}号|\d{1,3}(?:号楼|栋|单元)\d{1,4}",
        r"(?:家庭|联系|现)?(?:住址|地址) ?[:：] ?[\u4e00-\u9fff\d]{2,}",
        r"\b(?:(?:home|mailing|postal|street) )?(?:address|anschrift|adresse|direcci[óo]n|domicilio|indirizzo"
        r"|residenza|endereço|adres)"
        rf" ?[:=] ?(?:\d|(?-i:am|an der|im|in) {NAME}|{_OF}{NAME}(?: {NAME}){{0,3}},? \d|(?-i:Am|An der|Im) {NAME})",
    ),
    "postal code": (
        r"\b(?:zip(?: ?code)?|postal code|post ?code|PLZ|postleitzahl|code postal|c[óo]digo postal|codice postale)"
        r"\W{1,3}[A-Z]{0,2}-?\d[\dA-Z -]{2,9}",
        r"\b(?-i:CP|CAP|CEP)[: ]{1,2}\d{5}(?:-?\d{3})?(?![\w-])",
        r"\bpost ?code\W{1,3}[A-Z]{1,2}\d",
        r"(?<!\w)(?-i:(?:[BEGLMNSW]|[A-Z]{2})\d[A-Z\d]? \d(?!ST|ND|RD|TH)[ABD-HJLNP-UW-Z]{2})(?!\w)",
        r"(?<!\w)(?-i:[ABCEGHJ-NPRSTVXY]\d[A-Z] ?\d[A-Z]\d)(?!\w)",
        r"(?<!\w)(?-i:D|A|CH|F|I|E)-\d{4,5} (?-i:[A-ZÄÖÜ])[a-zäöüß]{2,}",
    ),
}  # fmt: skip
"""Kind -> patterns, for text that was spelled plainly."""
