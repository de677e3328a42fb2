"""Every page is self-contained, and markup in quoted text has no effect."""

import base64
import hashlib
import re

import pytest

from medvlm.report.images import DrawnBox, draw_picture, read_png_size
from medvlm.report.markup import Child, Html, escape_text, link, tag
from medvlm.report.page import make_section, make_table, write_page

ONE_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


def test_text_is_escaped_and_markup_is_not():
    assert (
        tag("p", "a < b & <script>", Html("<b>c</b>"), title='"x"')
        == '<p title="&#34;x&#34;">a &lt; b &amp; &lt;script&gt;<b>c</b></p>'
    )


def test_text_that_no_encoding_holds_is_replaced():
    assert escape_text("a\ud800b\x00c") == "a?b\N{REPLACEMENT CHARACTER}c"


def test_attributes_that_are_none_or_false_are_left_out():
    assert tag("input", type="checkbox", checked=True, hidden=False, id=None) == '<input type="checkbox" checked>'


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//evil.example", ""])
def test_only_web_addresses_become_links(url):
    assert link("licence", url) == "licence"


def test_a_web_address_is_a_link():
    assert link("CC0", "https://creativecommons.org/?a=1&b=2").startswith(
        '<a href="https://creativecommons.org/?a=1&amp;b=2"'
    )


def test_a_page_parses_and_lists_its_sections(tmp_path, parse):
    rows: list[list[Child]] = [["a", 1], ["b", 2]]
    made = [
        make_section("One", "one", make_table("Numbers", ["name", "n"], rows, {1})),
        None,
        make_section("Two", "two", tag("p", "x")),
    ]
    page = parse(write_page(tmp_path / "deep" / "p.html", title="t <i>", eyebrow="run", head=[], sections=made))
    assert [(a.attributes["href"], a.text) for a in page.all("nav")[0].all("a")] == [("#one", "One"), ("#two", "Two")]
    assert [s.attributes["id"] for s in page.all("section")] == ["one", "two"]
    assert page.all("h1")[0].text == "t <i>"
    assert [c.words() for c in page.all("caption")] == ["Numbers"]
    assert [h.text for h in page.all("th") if h.attributes["scope"] == "row"] == ["a", "b"]
    assert not list(tmp_path.rglob("*.part"))


def test_the_policy_forbids_everything_from_elsewhere(tmp_path, parse):
    page = parse(write_page(tmp_path / "p.html", title="t", eyebrow="e", head=[], sections=[]))
    policy = next(
        m.attributes["content"] for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    (script,) = page.all("script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    assert not re.search(r"url\(|@import|https?:", page.all("style")[0].text)
    assert not re.search(r"fetch|XMLHttp|WebSocket|eval|innerHTML|https?:(?!//www.w3.org/2000/svg)", script.text)


def test_every_class_of_the_style_sheet_is_balanced(tmp_path, parse):
    """A missing brace would silently disable all rules after it."""
    style = parse(write_page(tmp_path / "p.html", title="t", eyebrow="e", head=[], sections=[])).all("style")[0].text
    assert style.count("{") == style.count("}")


def test_png_size_is_read_from_the_header():
    assert read_png_size(ONE_PIXEL) == (1, 1)
    assert read_png_size(b"\xff\xd8\xff" + bytes(30)) is None
    assert read_png_size(ONE_PIXEL[:20]) is None


def test_boxes_are_drawn_in_their_own_coordinates_over_the_whole_image(parse):
    """The overlay's view box is stretched over the image, so a box keeps the numbers of the answer."""
    boxes = [
        DrawnBox((210, 305, 420, 515.5), "truth", "truth: <nodule>"),
        DrawnBox((0, 0, 1000, 1000), "answer", "answer: nodule"),
    ]
    drawn = parse(draw_picture(ONE_PIXEL, "an image", boxes, (1000, 1000))).all("svg")[0]
    assert (drawn.attributes["viewbox"], drawn.attributes["preserveaspectratio"]) == ("0 0 1000 1000", "none")
    truth, answer = drawn.all("rect", "b-truth"), drawn.all("rect", "b-answer")
    assert [{k: r.attributes[k] for k in ("x", "y", "width", "height")} for r in truth] == [
        {"x": "210", "y": "305", "width": "210", "height": "210.5"}
    ]
    assert [{k: r.attributes[k] for k in ("x", "y", "width", "height")} for r in answer] == [
        {"x": "0", "y": "0", "width": "1000", "height": "1000"}
    ]
    assert truth[0].all("title")[0].text == "truth: <nodule>"


def test_boxes_span_the_pixels_of_the_image_by_default(parse):
    drawn = parse(draw_picture(ONE_PIXEL, "an image", [DrawnBox((0, 0, 1, 1), "0", "cell")])).all("svg")[0]
    assert drawn.attributes["viewbox"] == "0 0 1 1"


def test_bytes_that_are_no_png_are_refused():
    with pytest.raises(ValueError, match="expected a PNG"):
        draw_picture(b"GIF89a", "an image")


def test_a_note_behind_an_answer_stays_in_the_column_of_answers(tmp_path, parse):
    """Several dd may follow one dt, so both name their column."""
    style = parse(write_page(tmp_path / "p.html", title="t", eyebrow="e", head=[], sections=[])).all("style")[0].text
    assert re.search(r"\.qa dt \{[^}]*grid-column: 1;", style)
    assert re.search(r"\.qa dd \{[^}]*grid-column: 2;", style)
