"""Attributes that DICOM PS3.15 Annex E removes from a header, grouped by what people must have checked for them to
stay.

Source: Table E.1-1, edition 2026c: all attributes that the Basic Application Level Confidentiality Profile removes,
empties or replaces (actions X, Z, D and their combinations). UIDs (action U) are left out: they only group files, and
never reach a shard. Each attribute is listed under the option of the profile that may keep it. Those that no option
keeps are `identity`; of these, `pseudonyms` are the numbers and names that de-identified files replace by codes. Added
here: dates in non-Gregorian calendars (0010,0033-0034), which the table omits, and icon images (listed under pixels).
"""

from __future__ import annotations

from medvlm.core.card import Checked

_TABLE: dict[str, str] = {
    "pseudonyms": """
        0008:0050 0010:0010,0020,0021 0012:0010,0020,0021,0022,0023,0040,0041,0042,0043,0050,0055,0071,0073
        0020:0010 0034:0005 0040:0009,0253,050A,0512,0513,0551,0562,06FA,1001,2016,2017 0050:001B 2200:0005
    """,
    "identity": """
        0008:0090,0092,0094,0096,009C,009D,1048,1049,1050,1052,1060,1062,1070,1072 0010:0011,0012,0013,0014,0015
        0010:0016,0030,0032,0033,0034,0050,0101,0102,1000,1001,1002,1005,1040,1050,1060,1080,1081,1090,1100,2150
        0010:2152,2154,2155,21F0,2297,2299 0012:0032,0082 0016:004D,0070,0071,0072,0073,0074,0075,0076,0077,0078
        0016:0079,007A,007B,007C,007D,007E,007F,0080,0081,0082,0083,0084,0085,0086,0087,0088,0089,008A,008B,008C
        0016:008E 0020:3406 0028:4000 0032:0012,1032,1033 0034:0001,0002 0038:0004,0010,0011,0014,001E,0060,0061
        0038:0064,0300,0400 0040:0006,000B,0243,1004,1005,1010,1011,1101,1102,1103,1104,2008,2009,2010,2011,3001
        0040:4034,4035,4036,4037,A027,A034,A035,A073,A075,A078,A07A,A07C,A088,A123,A307,A352,A353,A354,A358,B034
        0040:B036,B03B,B03F,E012 0042:0011 0070:0084,0086 0072:0065,006A,006D,0071 0088:0904,0906,0910,0912
        0400:0115,0402,0403,0404,0550,0551,0552,0561,0600 2030:0020 3006:004D,004E,00A6 300A:0611,0615 300E:0008
        3010:001B 4000:0010,4000 4008:0040,0042,0102,010A,010C,0111,0114,0118,0119,011A,0200,0202 FFFA:FFFA
        FFFC:FFFC
    """,
    "patient": """
        0010:0040,0041,0042,0043,0044,0045,0046,0047,1010,1020,1030,2160,2161,2162,21A0,21C0,2203 0038:0050
        0040:0012 0072:005F
    """,
    "dates": """
        0008:0012,0013,0015,0020,0021,0022,0023,0024,0025,002A,0030,0031,0032,0033,0034,0035,0106,0107,0201
        0010:21D0 0012:0086,0087 0016:008D 0018:0027,0035,1012,1014,1042,1043,1072,1073,1078,1079,9074,9151,9369
        0018:936A,9516,9517,9623,9701,9804,9919,A002 0020:3403,3405 0032:0032,0033,0034,0035,1000,1001,1010,1011
        0032:1040,1041,1050,1051 0034:0007 0038:001A,001B,001C,001D,0020,0021,0030,0032 003A:0314 0040:0002,0003
        0040:0004,0005,0244,0245,0250,0251,2004,2005,4005,4008,4010,4011,4050,4051,4052,A023,A024,A030,A032,A033
        0040:A082,A110,A112,A120,A121,A122,A13A,A192,A193,DB06,DB07,E004 0044:0004,000B,0010,0104,0105 0068:6226
        0068:6270 0070:0082,0083 0072:000A,0061,0063,006B 0100:0420 0400:0105,0310,0562 2100:0040,0050 3006:0008
        3006:0009,002D,002E 3008:0024,0025,0054,0056,0162,0164,0166,0168,0250,0251 300A:0006,0007,022C,022E,0736
        300A:073A,0741,0760 300E:0004,0005 3010:004C,004D,0085 4008:0100,0101,0108,0109,0112,0113
    """,
    "descriptions": """
        0008:1030,103E,1080,1084,1088,1301,1302,1303,1304,2111,4000 0010:2000,2180,21B0,4000 0012:0051,0072
        0016:002B,004B 0018:0010,1030,11BB,1400,4000,9185,937B,937F,9424,9937,A003 0020:0027,4000,9158 0032:1030
        0032:1060,1066,1067,1070,4000 0038:0040,0062,4000 003A:0020,0203,020C,0329,032B 0040:0007,0254,0275,0280
        0040:0310,051A,0555,0556,0600,0602,0610,1002,100A,1400,2001,2400,A730,B020 0050:0021 006A:0005,0006
        0072:0066,0068,006C,006E,0070 0400:0565 2200:0002 3002:0121,0123 3006:0002,0004,0006,0026,0028,0038,0085
        3006:0088 300A:0002,0003,0004,000B,000E,0016,0072,00C3,00DD,0196,01A6,01B2,02EB,0608,0619,0623,062A,0676
        300A:067C,067D,0734,0742,0783,078E,0792,0794,079A 300C:0113 3010:000F,0017,0033,0034,0035,0036,0037,0038
        3010:0054,0056,005A,005C,0061,0077,007A,007B,007F,0081 4008:010B,0115,0300,4000
    """,
    "institution": """
        0008:0080,0081,0082,1040,1041 0012:0030,0031,0060,0081 0400:0564
    """,
    "device": """
        0008:0054,0055,1000,1010 0016:004E,004F,0050,0051 0018:1000,1004,1005,1007,1008,1009,100A,1010,1011,5011
        0018:700A,9367,9371,9373 0020:3401 0032:1020,1021 0040:0001,0010,0011,0241,0242,4025,4027,4028,4030
        0050:0020 0072:005E 0074:1234,1236 0400:0563 2100:0070,0140 3008:0105 300A:00B2,0216 3010:002D,0043
    """,
    "pixels": """
        0070:0001,0006 0088:0200
    """,
    "descriptions patient": """
        0010:2110 0038:0500
    """,
    "dates device": """
        0014:407C,407E 0018:1200,1201,1202,1203,1204,1205,700C,700E 300C:0127
    """,
}
"""Words of a card, any of which accepts the attributes -> attributes as group:element,element ... in hex."""


def _parse(words: str, lines: str) -> dict[int, tuple[Checked, ...]]:
    """Tag -> words, for one entry of _TABLE."""
    groups = (part.split(":") for part in lines.split())
    return {
        (int(group, 16) << 16) | int(element, 16): tuple(words.split())  # type: ignore[arg-type]
        for group, elements in groups
        for element in elements.split(",")
    }


REMOVED: dict[int, tuple[Checked, ...]] = {
    tag: found for words, lines in _TABLE.items() for tag, found in _parse(words, lines).items()
}
"""Tag -> words of a card, any of which accepts a non-empty value."""

SAFE_PRIVATE: dict[tuple[int, str], frozenset[int]] = {
    (0x0019, "SIEMENS MR HEADER"): frozenset({0x0C, 0x0D, 0x0E, 0x27}),  # b value, diffusion direction and matrix
    (0x0019, "GEMS_ACQU_01"): frozenset({0x23, 0x24, 0x27, 0x9E}),  # table speed, mid scan time, rotation, sequence
    (0x0025, "GEMS_SERS_01"): frozenset({0x07}),  # images in series
    (0x0043, "GEMS_PARM_01"): frozenset({0x27, 0x39, 0x6F}),  # pitch ratio, b value, gradient coil
    (0x0045, "GEMS_HELIOS_01"): frozenset({0x01, 0x02}),  # rows of the detector
    (0x00E1, "ELSCINT1"): frozenset({0x21, 0x50}),  # dose, duration
    (0x01E1, "ELSCINT1"): frozenset({0x26}),  # kind of phantom
    (0x01F1, "ELSCINT1"): frozenset({0x01, 0x07, 0x26, 0x27}),  # acquisition, table speed, pitch, rotation
    (0x0903, "GEIIS PACS"): frozenset({0x10, 0x11, 0x12}),  # flags
    (0x2001, "Philips Imaging DD 001"): frozenset({0x03, 0x04}),  # b value, diffusion direction
    (0x7053, "Philips PET Private Group"): frozenset({0x00, 0x09}),  # SUV and activity factors
}
"""(group, creator) -> elements of its block that hold only measurements. The elements of PS3.15 Table E.3.10-1 that
images use."""
