// Sorts, filters, zooms and scrolls. Everything but the list of all answers is on the page without it.
"use strict";
(() => {
const MINUS = "\u2212", PER_PAGE = 50;
const find = (where, what) => [...where.querySelectorAll(what)];
const read = (where) => JSON.parse(where.querySelector(":scope > script[type='application/json']").textContent);
function make(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== null));
  return made;
}
function draw(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
function format(x) {
  const size = Math.abs(x);
  const text = size >= 1e6 ? `${+(x / 1e6).toPrecision(3)}M` : size >= 1e4 ? `${+(x / 1e3).toPrecision(3)}k`
    : size && size < 1e-3 ? x.toExponential(1).replace(".0e", "e") : String(+x.toPrecision(3));
  return text.replace(/-/g, MINUS);
}

// --- tables ----------------------------------------------------------------------------------------------

function valueOf(cell) {
  const exact = cell && cell.querySelector("[data-v]");
  const text = exact ? exact.dataset.v : cell ? cell.textContent.trim() : "";
  const number = text.replace(MINUS, "-").replace(/,/g, "").match(/^[+-]?\d+(\.\d+)?(e-?\d+)?/);
  return {text, number: number && Number.isFinite(+number[0]) ? +number[0] : null};
}
// Empty values last in both orders; numbers before texts.
function order(a, b, down) {
  const empty = (v) => v.text === "" || v.text === "\u2013";
  if (empty(a) || empty(b)) return empty(a) - empty(b);
  const by = a.number !== null && b.number !== null ? a.number - b.number
    : a.text.localeCompare(b.text, undefined, {numeric: true});
  return down ? -by : by;
}
function headers(table, sort) {
  find(table, "thead th").forEach((th, at) => {
    const button = make("button", {type: "button", class: "sort", onclick: () => {
      const down = th.getAttribute("aria-sort") === "ascending";
      find(table, "thead th").forEach((each) => each.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(at, down);
    }}, ...th.childNodes);
    th.append(button);
  });
}
function sortable(table) {
  const body = table.tBodies[0];
  headers(table, (at, down) => {
    const rows = [...body.rows].map((row) => [valueOf(row.cells[at]), row]);
    body.append(...rows.sort((a, b) => order(a[0], b[0], down)).map((pair) => pair[1]));
  });
}
function filterable(block) {
  const rows = find(block, "tbody tr"), count = make("span", {class: "muted small", role: "status"});
  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length}`;
  };
  const input = make("input", {type: "search", placeholder: "filter rows", "aria-label": "filter rows", oninput: show});
  block.prepend(make("p", {class: "tools"}, input, ...chooser(block, rows), count));
  show();
}
// One of several numbers of each row: the cell .chosen of a row shows it. The row's numbers are in data-values.
function chooser(block, rows) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(JSON.parse(row.dataset.values || "{}"))))];
  if (!names.length) return [];
  const show = () => {
    for (const row of rows) {
      const [value, words, verdict] = JSON.parse(row.dataset.values || "{}")[select.value] || ["", "\u2013", ""];
      const style = {better: "good", worse: "bad"}[verdict] || "muted";
      row.querySelector(".chosen").replaceChildren(make("span", {"data-v": value}, words));
      row.querySelector(".chosen-verdict").replaceChildren(make("span", {class: style}, verdict || "\u2013"));
    }
  };
  const select = make("select", {"aria-label": "result that is shown", onchange: show},
    ...names.map((name) => make("option", {value: name}, name)));
  show();
  return [make("label", {}, "result ", select)];
}

// --- curves ----------------------------------------------------------------------------------------------

const WIDTH = 300, LEFT = 46, RIGHT = 10, TOP = 8, BOTTOM = 24;
function listTicks(low, high, about, log) {
  const out = [];
  if (log) {
    for (let e = Math.floor(low); e <= high; e++) for (const m of high - low <= 2 ? [1, 2, 5] : [1]) {
      const at = e + Math.log10(m);
      if (at >= low - 1e-9 && at <= high + 1e-9) out.push([at, m * 10 ** e]);
    }
    return out.filter((_, n) => n % Math.ceil(out.length / 6) === 0);
  }
  const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
  const away = (step) => Math.abs(Math.log(step / rough));
  const step = [1, 2, 5, 10].map((m) => m * power).reduce((a, b) => (away(b) < away(a) ? b : a));
  for (let i = Math.ceil(low / step - 1e-9); i <= high / step + 1e-9; i++) out.push([i * step, +(i * step).toPrecision(9)]);
  return out;
}
function curve(figure) {
  const svg = find(figure, "svg[viewBox]")[0], all = read(figure), height = +svg.getAttribute("viewBox").split(" ")[3];
  const lines = all.lines.map((line) => ({...line, points: line.xs.map((x, n) => [x, line.ys[n]])}));
  const full = [0, Math.max(1, all.end, ...lines.flatMap((line) => line.xs))];
  const lasts = find(figure, ".legend b"), said = lasts.map((each) => each.textContent);
  const positive = lines.every((line) => line.ys.every((y) => y > 0));
  let [low, high] = full, log = all.log, from = null, X, Y;
  const stepAt = (event) => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * WIDTH;
    return low + Math.min(1, Math.max(0, (at - LEFT) / (WIDTH - LEFT - RIGHT))) * (high - low);
  };
  function redraw() {
    const inside = lines.flatMap((line) => line.points.filter(([x]) => x >= low && x <= high).map((point) => point[1]));
    const scale = (y) => (log ? Math.log10(y) : y);
    let [least, most] = inside.length ? [Math.min(...inside.map(scale)), Math.max(...inside.map(scale))] : [0, 1];
    const margin = (most - least) * 0.04 || Math.abs(most) * 0.5 || 1;
    [least, most] = [least - margin, most + margin];
    X = (x) => LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT);
    Y = (y) => height - BOTTOM - (scale(y) - least) / (most - least) * (height - BOTTOM - TOP);
    const id = `clip${find(document, "figure.curve").indexOf(figure)}`, parts = [];
    parts.push(draw("clipPath", {id}, draw("rect", {x: LEFT - 4, y: 0, width: WIDTH - LEFT - RIGHT + 8, height: height - BOTTOM + 4})));
    for (const [at, label] of listTicks(least, most, Math.max(2, height / 45), log)) {
      const y = height - BOTTOM - (at - least) / (most - least) * (height - BOTTOM - TOP);
      parts.push(draw("line", {x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y, class: "grid"}));
      parts.push(draw("text", {x: LEFT - 6, y: y + 4, "text-anchor": "end"}, format(label)));
    }
    for (const [x, label] of listTicks(low, high, 4, false)) {
      parts.push(draw("line", {x1: X(x), x2: X(x), y1: height - BOTTOM, y2: height - BOTTOM + 4, class: "axis"}));
      const end = X(x) > WIDTH - RIGHT - 12;
      parts.push(draw("text", {x: end ? WIDTH - 2 : X(x), y: height - 6, "text-anchor": end ? "end" : "middle"}, format(label)));
    }
    parts.push(draw("line", {x1: LEFT, x2: WIDTH - RIGHT, y1: height - BOTTOM, y2: height - BOTTOM, class: "axis"}));
    lines.forEach((line, n) => {
      const put = (points, kind) => draw("polyline", {class: kind, points: points.map(([x, y]) => `${X(x).toFixed(1)},${Y(y).toFixed(1)}`).join(" ")});
      const group = draw("g", {class: `s${n % 6}${line.marks ? " marks" : ""}`, "clip-path": `url(#${id})`});
      const near = line.points.filter(([x], at) => x >= low && x <= high
        || line.xs[at + 1] >= low && x < low || line.xs[at - 1] <= high && x > high);
      if (line.marks) {
        group.append(put(near, "joined"));
        near.forEach(([x, y]) => group.append(draw("circle", {cx: X(x), cy: Y(y), r: 3.2})));
      } else if (near.length < 60) {
        group.append(put(near, "line"));
        if (near.length === 1) group.append(draw("circle", {cx: X(near[0][0]), cy: Y(near[0][1]), r: 2.5}));
      } else {
        const reach = Math.max(1, Math.floor(near.length / 40));
        group.append(put(near, "raw"), put(near.map(([x], at) => {
          const back = Math.min(reach, at), part = near.slice(at - back, at + back + 1);
          return [x, part.reduce((sum, point) => sum + point[1], 0) / part.length];
        }), "line"));
      }
      parts.push(group);
    });
    parts.push(draw("line", {class: "cursor", y1: TOP, y2: height - BOTTOM, x1: -9, x2: -9}));
    parts.push(draw("rect", {class: "zoom", y: TOP, height: height - BOTTOM - TOP, x: 0, width: 0}));
    svg.replaceChildren(...parts);
    whole.hidden = low === full[0] && high === full[1];
    scaled.textContent = log ? "linear" : "log";
  }
  const whole = make("button", {type: "button", onclick: () => { [low, high] = full; redraw(); }}, "whole");
  const zoom = (by) => {
    const middle = (low + high) / 2, half = Math.min((high - low) * by, full[1] - full[0]) / 2;
    low = Math.max(full[0], Math.min(middle - half, full[1] - 2 * half));
    high = low + 2 * half;
    redraw();
  };
  const scaled = make("button", {type: "button", onclick: () => { log = !log; redraw(); }}, log ? "linear" : "log");
  const where = make("span", {class: "muted"});
  figure.append(make("p", {class: "tools small"}, make("button", {type: "button", "aria-label": "zoom in", onclick: () => zoom(0.5)}, "+"),
    make("button", {type: "button", "aria-label": "zoom out", onclick: () => zoom(2)}, MINUS), positive ? scaled : null, whole, where));
  whole.hidden = true;
  const show = (event) => {
    if (!X) redraw();
    const at = stepAt(event);
    const near = lines.map((line) => line.points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a)));
    near.forEach((point, n) => { if (lasts[n]) lasts[n].textContent = format(point[1]); });
    const step = near.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a))[0];
    where.textContent = `step ${format(step)}`;
    const cursor = svg.querySelector(".cursor"), area = svg.querySelector(".zoom");
    cursor.setAttribute("x1", X(step)); cursor.setAttribute("x2", X(step));
    if (from !== null) {
      area.setAttribute("x", X(Math.min(from, at)));
      area.setAttribute("width", Math.abs(X(at) - X(from)));
    }
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", (event) => { if (!X) redraw(); from = stepAt(event); svg.setPointerCapture(event.pointerId); });
  svg.addEventListener("pointerup", (event) => {
    const to = stepAt(event), start = from;
    from = null;
    if (start !== null && Math.abs(to - start) > (high - low) / 40) { [low, high] = [Math.min(start, to), Math.max(start, to)]; redraw(); }
  });
  svg.addEventListener("pointercancel", () => { from = null; });
  svg.addEventListener("dblclick", () => { [low, high] = full; redraw(); });
  svg.addEventListener("pointerleave", () => {
    lasts.forEach((each, n) => { each.textContent = said[n]; });
    where.textContent = "drag to zoom";
    if (from === null && svg.querySelector(".cursor")) svg.querySelector(".cursor").setAttribute("x1", -9), svg.querySelector(".cursor").setAttribute("x2", -9);
  });
  where.textContent = "drag to zoom";
}

// --- the list of all answers ------------------------------------------------------------------------------

function answers(block) {
  const {models, rows, shown} = read(block);
  const marks = {right: "\u2713", partly: "\u25d0", wrong: "\u2717", unscored: ""};
  const markOf = (score) => (score === null ? "unscored" : score >= 0.999 ? "right" : score <= 0.001 ? "wrong" : "partly");
  const all = rows.map(([key, where, task, template, question, truth, said, scores]) => ({
    key, where, task, template, question, truth, said, scores, marks: scores.map(markOf),
    text: [key, question, truth, ...said].join("\n").toLowerCase(),
  }));
  let kept = all, until = PER_PAGE;
  const search = make("input", {type: "search", placeholder: "key, question or answer", "aria-label": "search", oninput: () => choose()});
  const selects = [["data set", (row) => row.where], ["task", (row) => row.task], ["template", (row) => row.template],
    ...models.map((name, n) => [models.length > 1 ? name : "verdict", (row) => row.marks[n]])].map(([name, of]) => {
    const values = [...new Set(all.map(of))].filter(Boolean).sort();
    if (values.length < 2) return null;
    const select = make("select", {onchange: () => choose()}, make("option", {value: ""}, "all"),
      ...values.map((value) => make("option", {value}, value)));
    return {of, select, label: make("label", {}, `${name} `, select)};
  }).filter(Boolean);
  const said = make("p", {class: "muted small", role: "status"});
  const names = ["key", "question", "truth", ...(models.length > 1 ? models : ["answer"]), ...models.map((name) => (models.length > 1 ? `score of ${name}` : "score"))];
  const body = make("tbody"), table = make("table", {class: "all-answers"}, make("thead", {}, make("tr", {}, ...names.map((name) => make("th", {scope: "col", class: name.startsWith("score") ? "num" : undefined}, name)))), body);
  const more = make("button", {type: "button", class: "more", onclick: () => { until += 4 * PER_PAGE; show(); }});
  const columns = [(r) => r.key, (r) => r.question, (r) => r.truth, ...models.map((_, n) => (r) => r.said[n]), ...models.map((_, n) => (r) => r.scores[n])];
  headers(table, (at, down) => {
    const value = (row) => { const v = columns[at](row); return {text: v === null ? "" : String(v), number: typeof v === "number" ? v : null}; };
    const paired = all.map((row) => [value(row), row]).sort((a, b) => order(a[0], b[0], down));
    all.splice(0, all.length, ...paired.map((pair) => pair[1]));
    choose();
  });
  function choose() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    kept = all.filter((row) => words.every((word) => row.text.includes(word)) && selects.every((s) => !s.select.value || s.of(row) === s.select.value));
    until = PER_PAGE;
    show();
  }
  function show() {
    body.replaceChildren(...kept.slice(0, until).map((row) => make("tr", {},
      make("th", {scope: "row"}, shown.includes(row.key) ? make("a", {href: `#sample-${row.key}`}, row.key) : row.key),
      make("td", {"data-name": "question"}, row.question, make("span", {class: "muted small block"}, [row.where, row.task, row.template].filter(Boolean).join(" \u00b7 "))),
      make("td", {"data-name": "truth"}, make("bdi", {}, row.truth)),
      ...row.said.map((text, n) => make("td", {"data-name": names[3 + n]}, make("span", {},
        text === null ? make("span", {class: "muted"}, "none") : make("bdi", {}, text), " ",
        make("span", {class: {right: "good", wrong: "bad", partly: "part"}[row.marks[n]] || "muted", title: row.marks[n]}, marks[row.marks[n]])))),
      ...row.scores.map((score, n) => make("td", {class: "num", "data-name": names[3 + models.length + n]}, score === null ? "\u2013" : format(score))))));
    const means = models.map((name, n) => {
      const scores = kept.map((row) => row.scores[n]).filter((score) => score !== null);
      if (!scores.length) return null;
      return `${models.length > 1 ? `mean score of ${name}` : "mean score"} ${format(scores.reduce((a, b) => a + b, 0) / scores.length)}`;
    }).filter(Boolean);
    said.textContent = [`${kept.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} answers`, ...means].join(", ");
    more.hidden = kept.length <= until;
    more.textContent = `show more (${Math.min(until, kept.length)} of ${kept.length.toLocaleString("en")})`;
  }
  block.append(make("p", {class: "tools"}, make("label", {}, search), ...selects.map((s) => s.label)), said, make("div", {class: "scroll"}, table), more);
  show();
}

// --- slices of volumes ------------------------------------------------------------------------------------

function slices(strip) {
  const count = +strip.dataset.slices, names = JSON.parse(strip.dataset.names), place = make("span", {class: "muted small"});
  const width = () => strip.scrollWidth / count, at = () => Math.min(count - 1, Math.max(0, Math.round(strip.scrollLeft / width())));
  const range = make("input", {type: "range", min: 0, max: count - 1, value: 0, "aria-label": "slice",
    oninput: () => { strip.scrollLeft = range.value * width(); }});
  const say = () => { range.value = at(); place.textContent = names[at()]; };
  strip.addEventListener("scroll", say, {passive: true});
  strip.addEventListener("wheel", (event) => {
    const to = at() + Math.sign(event.deltaY);
    if (!event.deltaY || event.ctrlKey || to < 0 || to >= count) return;
    event.preventDefault();
    strip.scrollLeft = to * width();
  }, {passive: false});
  strip.after(make("p", {class: "tools slices-tools"}, range, place));
  // A frame later: the browser snaps to the first slice again when the pictures get their size.
  const start = () => requestAnimationFrame(() => { strip.scrollLeft = Math.floor(count / 2) * width(); say(); });
  if (document.readyState === "complete") start(); else addEventListener("load", start);
}

for (const table of find(document, "table[data-sort]")) sortable(table);
for (const block of find(document, ".filter-rows")) filterable(block);
for (const figure of find(document, "figure.curve:has(> script)")) curve(figure);
for (const block of find(document, ".answer-list")) answers(block);
for (const strip of find(document, ".slices")) slices(strip);
})();
