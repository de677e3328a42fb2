"""One stored sample: its pictures with boxes, their properties, and its questions and answers."""

from __future__ import annotations

from medvlm.core.config import is_available
from medvlm.core.errors import DataError
from medvlm.core.sample import Box, Medium, Question, Sample, Truth
from medvlm.core.tasks import Drawing, find_task
from medvlm.core.turns import tell
from medvlm.io.images import decode
from medvlm.io.masks import decode_mask
from medvlm.report.display import is_scrolled, make_png, make_slices
from medvlm.report.images import DrawnBox, Layer, draw_picture, draw_slices
from medvlm.report.markup import Html, tag
from medvlm.report.masks import layers_of

MANY = 3
"""With more boxes than this, their coordinates are folded away, because the picture is easier to read."""


def make_sample_card(sample: Sample, files: dict[str, bytes], labels: list[str], asked: bool = True) -> Html:
    """labels: of boxes; a label's position chooses its line style. asked: show questions and report as well as the
    picture and its properties."""
    media = [_draw_medium(sample, i, files, labels) for i in range(len(sample.media))]
    fold = (
        tag("details", tag("summary", "report"), tag("p", tag("bdi", sample.report), class_="report-text"))
        if asked and sample.report
        else None
    )
    concept = (
        tag("p", tag("span", "concept ", class_="muted"), sample.concept, class_="small") if sample.concept else None
    )
    key = tag("p", tag("span", sample.split, class_="chip"), tag("code", sample.key, class_="muted"))
    questions = [_make_question(q) for q in sample.questions] if asked else []
    return tag(
        "article",
        *(m[0] for m in media),
        tag("div", key, *(m[1] for m in media), *questions, concept, fold, class_="body"),
        class_="card",
    )


def _draw_medium(sample: Sample, i: int, files: dict[str, bytes], labels: list[str]) -> tuple[Html, Html]:
    """The picture and a line with its properties. If it cannot be decoded, the reason is shown instead of the
    picture."""
    medium = sample.media[i]
    flat = i == 0 and len(medium.size) == 2
    drawn = [DrawnBox(box, str(labels.index(label)), label) for label, box in list_boxes(sample)] if flat else []
    try:
        if medium.member not in files:
            raise DataError(f"{medium.member} is missing from the shard")
        pixels = decode(files[medium.member], medium.member)
    except DataError as reason:
        return tag("p", f"\N{BALLOT X} cannot be shown: {reason}", class_="bad body"), _facts_of(medium, "")
    alt = f"{medium.kind} of sample {sample.key}"
    if is_scrolled(pixels, medium):
        slices, names, words = make_slices(pixels, medium)
        return draw_slices(slices, names, alt), _facts_of(medium, words)
    png, words = make_png(pixels, medium)
    frame = (float(medium.size[1]), float(medium.size[0])) if flat else None
    layers = _draw_masks(sample, files) if flat else []
    return draw_picture(png, alt, drawn, frame, layers), _facts_of(medium, words)


def _draw_masks(sample: Sample, files: dict[str, bytes]) -> list[Layer]:
    """The stored masks of all questions. Masks that cannot be read are not shown; an audit reports them."""
    found: dict[Layer, None] = {}
    for truth in (question.truth for question in sample.questions if question.truth.members):
        try:
            masks = {name: decode_mask(files[name], name) for name in truth.members}
            found |= dict.fromkeys(layers_of(draw(find_task(truth.task).hold(truth, masks))))
        except (DataError, KeyError):
            continue
    return list(found)


def list_boxes(sample: Sample) -> list[tuple[str, Box]]:
    """(label, box) of all questions. Questions to count and to locate have the same boxes, so duplicates are
    removed."""
    boxes = (each for question in sample.questions for each in draw(question.truth).boxes or ())
    return list(dict.fromkeys((label, box) for box, label in boxes))


def draw(truth: Truth) -> Drawing:
    """The drawing of a truth; only its text if its task is not installed."""
    return find_task(truth.task).describe(None, truth) if is_available("tasks", truth.task) else Drawing(truth.answer)


def _facts_of(medium: Medium, words: str) -> Html:
    size = " \N{MULTIPLICATION SIGN} ".join(map(str, reversed(medium.size)))
    spacing = (
        " \N{MULTIPLICATION SIGN} ".join(f"{x:g}" for x in reversed(medium.spacing_mm)) + " mm"
        if medium.spacing_mm
        else "spacing unknown"
    )
    parts = [
        medium.kind,
        medium.modality,
        f"{size} {'voxels' if len(medium.size) == 3 else 'px'}",
        spacing,
        medium.unit,
        words,
    ]
    return tag("p", " \N{MIDDLE DOT} ".join(p for p in parts if p), class_="muted small")


def _make_question(question: Question) -> Html:
    drawing = draw(question.truth)
    written = tag("bdi", drawing.truth)
    folded = drawing.summary and len(drawing.boxes or ()) > MANY
    answer = tag("details", tag("summary", drawing.summary), tag("p", written)) if folded else written
    rest = tag("span", f" \N{EM DASH} {drawing.aside}", class_="muted") if drawing.aside else None
    head = tag("p", tag("span", question.template, class_="muted verdicts"), tag("strong", tell(question)), class_="q")
    steps = [
        tag("li", tag("span", f"{name}: ", class_="muted"), tag("bdi", text)) for name, text in question.steps.items()
    ]
    return tag("div", head, tag("p", answer, rest), tag("ol", *steps, class_="small") if steps else None, class_="qa")
