"""Patterns of dates with a day, dates of birth and ages above 89."""

from __future__ import annotations

from medvlm.io.phi.words import ANY_MONTH, DAY, FULL_MONTH, MONTH_NUMBER, SAFE_MONTH, SPELLED_MONTH, YEAR, one_of

_LEFT = r"(?<![^\W_])(?<!\d[./-])(?<!\d,)"
_RIGHT = r"(?![^\W_]|[/-]\d|[.,]\d| ?[cm]m\b)"
_TWO = r"(?:0[1-9]|[12]\d|3[01])"
_SUFFIX = r"(?:st|nd|rd|th|er|re|te[nr]?|o|a|e)?"
_OF = r"(?:of|de|del|di|do|den|d')"
_JANUARY = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_CHINESE = "[一二三四五六七八九十廿]{1,3}"
_ROMAN = r"(?:I{1,3}|IV|VI{0,3}|IX|XI{0,2})"
_ORDINAL = r"(?:(?:twenty|thirty)[ -]?)?" + one_of(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth"
    " sixteenth seventeenth eighteenth nineteenth twentieth thirtieth"
)
_AFTER_DATE = r"(?=[,;)]|\.(?:\s|$)|\s*$| (?:at|and|for|with|which|show\w*|demonstrat\w*|by|to|in|was|were)\b)"
_GERMAN_MONTH = one_of(
    "Januar Jänner Februar März Maerz April Mai Juni Juli August September Oktober November Dezember"
)
_FIRST = one_of("premier primero primo primeiro erste ersten erster eersten")

DATES = {
    "date with a day": (
        rf"{_LEFT}{YEAR} ?([-/._]) ?{MONTH_NUMBER} ?\1 ?{DAY}(?:T\d\d|{_RIGHT})",
        rf"{_LEFT}{YEAR} 0[1-9] {_TWO}{_RIGHT}",
        rf"{_LEFT}{YEAR}(?:0[1-9]|1[0-2]){_TWO}(?:T|[-_ ]?)(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d)?(?![^\W_])",
        rf"{_LEFT}{DAY} ?([-/._\\]) ?{DAY} ?\1 ?{YEAR}{_RIGHT}",
        rf"{_LEFT}{_TWO} (?:0[1-9]|1[0-2]) {YEAR}{_RIGHT}",
        rf"{_LEFT}(?:{DAY}/{DAY}/'?\d\d|\d\d-\d\d-\d\d|{_TWO}\.(?:0[1-9]|1[0-2])\.\d\d){_RIGHT}",
        rf"{_LEFT}{DAY}([./-]){_ROMAN}\1{YEAR}{_RIGHT}",
        rf"\b(?:vom|am|seit|bis|zum|ab) {DAY}\. ?{MONTH_NUMBER}\.(?: ?(?:{YEAR}|'?\d\d)(?!\d))?(?! ?(?:\d|[cm]m\b))",
        rf"\b(?:on|as of|since) {DAY}/{DAY}{_AFTER_DATE}",
        rf"\bdated {DAY}/{DAY}(?![\w/])",
        (
            rf"{_LEFT}(?<!{_JANUARY} ){DAY}{_SUFFIX}(?: the)?[ .,/-]{{0,3}}"
            rf"(?:{_OF} ?)?{ANY_MONTH}\.?[ .,/'-]{{0,3}}(?:{_OF} )?"
            rf"{YEAR}{_RIGHT}"
        ),
        rf"{_LEFT}{DAY}([ -/]?){ANY_MONTH}\.?\1'?\d\d(?![^\W_%]|[./,-]\d| ?[cm]m\b| ?%)",
        (
            rf"{_LEFT}(?:{ANY_MONTH}|March)\.?[ /,-]{{0,2}}(?:the )?{DAY}{_SUFFIX}"
            rf"(?: ?- ?{DAY})?[ ,/.'-]{{1,3}}{YEAR}{_RIGHT}"
        ),
        rf"{_LEFT}{YEAR}(?:[ ./-]|, )?{ANY_MONTH}\.?[ ./-]?{DAY}{_SUFFIX}{_RIGHT}",
        rf"(?<!\w){SPELLED_MONTH} (?:the )?{DAY}(?:st|nd|rd|th)?(?: ?- ?{DAY})?(?![\w%/]|[.,-]\d|\s?[cm]m\b)",
        rf"(?<!\w)(?:{SAFE_MONTH}|march|may) (?:the )?(?:\d?1st|\d?2nd|\d?3rd|\d?\dth)(?!\w)",
        rf"(?<!\w)(?:\d?1st|\d?2nd|\d?3rd|\d?\dth) (?:day )?of (?:{SAFE_MONTH}|march|may)(?!\w)",
        rf"(?<![\w.]){DAY}{_SUFFIX}(?: {_OF})?[ -](?:{FULL_MONTH}|{SPELLED_MONTH})(?![\w-])",
        rf"(?<![\w.]){DAY}\. ?{_GERMAN_MONTH}(?!\w)",
        rf"\b{_ORDINAL}(?: day)? of (?:{SAFE_MONTH}|march|may)(?!\w)",
        rf"\b(?:{SAFE_MONTH}|(?-i:March|May)) the {_ORDINAL}(?!\w)",
        rf"\b{_FIRST}(?: {_OF})? {FULL_MONTH}(?!\w)",
        rf"(?:\d{{2,4}} ?年 ?)?(?:\d{{1,2}}|{_CHINESE}) ?月 ?(?:\d{{1,2}}|{_CHINESE}) ?[日号號]",
        r"\d{1,2} ?월 ?\d{1,2} ?일",
    ),
    "date of birth": (
        (
            r"\b(?:D\.? ?O\.? ?B\.?|date of birth|birth ?(?:date|day|year)|year of birth|born(?: on| in)?|geb"
            r"(?:oren)?\.?"
            r"(?: am| im| in)?|geburts(?:datum|jahr|tag)|geb\.?-?(?:datum|dat\.?)|n[ée]e?(?: \(?e\)?)? (?:le|en)"
            r"|date de naissance|DDN|fecha de nac(?:imiento|\.)?|F\. ?(?:de )?nac\.?|nacid[oa] (?:el|en)|nat[oa] "
            r"(?:il|nel|a)"
            r"|data di nascita|data de nasc(?:imento|\.)?|nascid[oa] (?:em|a)|geboorte(?:datum|jaar))\W{0,3}\d"
        ),
        rf"\b(?:born|DOB|birth ?da(?:te|y)|date of birth|geboren|n[ée]e?|nacid[oa]|nat[oa]|nascid[oa])\W{{1,3}}"
        rf"(?:on |in |im |am |le |en |el |il |em |a )?(?:{DAY}\W{{1,2}})?(?:{FULL_MONTH}|{ANY_MONTH})\.? ?\d",
        r"(?:出生(?:日期|年月日?|于|時間|时间)?|生年月日|生日)\W{0,3}\d",
        r"\d{4} ?年(?: ?\d{1,2} ?月)?(?:出)?生(?!长)",
    ),
    "age above 89": (
        r"(?<![\d.,])(?:9\d|1[01]\d)[ -]?(?:years?|yrs?|y)\.?[ -]?(?:old|of age|o\b|aged)",
        r"(?<![\d.,])(?:9\d|1[01]\d)[ -](?:years?|yrs?)[ -](?:female|male|man|woman|lady|gentleman|patient)\b",
        r"(?<![\d.,])(?:9\d|1[01]\d) ?(?:yo|y ?/ ?o|y\.? ?o\.?|岁|歳|세|(?:-?j[äa]e?hrig\w*))(?!\w)",
        r"(?<![\d.,/-])(?:9\d|1[01]\d) (?:ans|años|anni|anos|Jahren?|jaar)(?!\w)(?! d[e'] ?(?:tabac|tabagisme))",
        (
            r"(?<![\d.,/-])(?<!temp )(?<!temperature )(?<!fever )(?<!fever of )(?<! T )(?<!HR )(?<!sat )(?<!P )"
            r"(?<!RR )(?<! to )(?<![<>~] )(?<![<>~])(?<! of )(?-i:(?:9\d|1[01]\d) ?[FM])(?!\w)"
        ),
        r"(?<![\d.,/-])(?:9\d|1[01]\d) ?/ ?(?-i:[FM])(?!\w)",
        (
            r"(?<!\w)(?:(?-i:[FM]) ?[/,] ?|(?:female|male|man|woman|lady|gentleman)(?:,| aged|:)? ?)(?:9\d|1[01]\d)"
            r"(?![\w%]|[.,/-]\d| ?(?-i:[%a-z]))"
        ),
        (
            r"\b(?:aged?|âg[ée]e?s?(?: de)?|alter|edad|et[àa]|idade|leeftijd|oud)\W{0,3}(?:de |of |is |was |von )?"
            r"(?:9\d|1[01]\d)(?!\d|[.,+]\d| ?[%+]| (?:and|or|et|und|y) (?:over|above|older|more|up))"
        ),
        r"年[龄齡]\W{0,2}(?:9\d|1[01]\d)",
        r"\baged (?:ninety|a hundred)",
        r"\b(?:ninety|neunzig|hundred)(?:[ -](?:one|two|three|four|five|six|seven|eight|nine))?[ -]years?[ -]old",
        r"\b(?:nonagenarian|centenarian|nonagénaire|centenaire|nonagenari[oa]|centenari[oa]|neunzigjährig\w*)s?\b",
        r"\b(?:his|her|their|the) (?:(?:early|mid|late)[ -])?(?:nineties|90'?s)\b",
        r"(?<!\w)(?-i:0(?:9\d)|1[01]\d)Y(?!\w)",
    ),
}  # fmt: skip
"""Kind -> patterns, for text that was spelled plainly."""
