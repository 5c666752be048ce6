// The scatter plot of one measure against another, of the backbones that have both. Follows tables.js in one module.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "g", "line", "path", "circle", "text"]);

function element(tag, attributes = {}, ...children) {
  const made = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// ---- Scales

function linearScale(values) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const margin = 0.08 * (most - least || Math.abs(most) || 1);
  const [low, high] = [least - margin, most + margin];
  const rough = (high - low) / 4; // so 4 to 10 ticks
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [5, 2, 1].find((factor) => factor * power <= rough * (1 + 1e-9));
  const first = Math.ceil((least >= 0 ? Math.max(low, 0) : low) / step);
  const ticks = Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return { at: (value) => (value - low) / (high - low), ticks, format: decimals(digits, digits) };
}

function logScale(values) {
  const logs = values.map(Math.log10);
  const [least, most] = [Math.min(...logs), Math.max(...logs)];
  const margin = 0.08 * (most - least || 1);
  const [low, high] = [least - margin, most + margin];
  const factors = high - low > 4 ? [1] : high - low > 0.7 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
  const ticks = [];
  for (let power = Math.floor(low); power <= high; power++) {
    ticks.push(...factors.map((factor) => factor * 10 ** power));
  }
  const inside = ticks.filter((tick) => Math.log10(tick) >= low && Math.log10(tick) <= high);
  return { at: (value) => (Math.log10(value) - low) / (high - low), ticks: inside, format: decimals(0, 12) };
}

function decimals(least, most) {
  const format = new Intl.NumberFormat("en", { minimumFractionDigits: least, maximumFractionDigits: most });
  return (value) => format.format(value);
}

// ---- Points

const MARGIN = { left: 64, right: 16, top: 12, bottom: 32 };
const SHAPES = [
  "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z",
  "M-5.5-5.5h11v11h-11z",
  "M0-7l6.5 12h-13z",
  "M0-7.5l7 7.5l-7 7.5l-7-7.5z",
  "M0 7l6.5-12h-13z",
  "M-2-7h4v5h5v4h-5v5h-4v-5h-5v-4h5z",
];

// As many colours as shapes; every further six methods pair them differently.
function colour(method) {
  const index = data.methods.indexOf(method);
  return `color: var(--method-${(index + Math.floor(index / SHAPES.length)) % SHAPES.length})`;
}

function glyph(method) {
  const shape = SHAPES[data.methods.indexOf(method) % SHAPES.length];
  return element("path", { d: shape, class: "glyph", style: colour(method) });
}

function chosen() {
  const [x, y] = ["x", "y"].map((axis) => data.measures[byId(axis).value]);
  const wanted = wantedWords();
  const log = byId("log").checked;
  const all = Object.keys(y.values).filter((key) => matches(data.backbones[key].search, wanted));
  const both = all.filter((key) => key in x.values);
  const drawn = both.filter((key) => [x, y].every((m) => !(log && m.cost) || m.values[key].mean > 0));
  const points = drawn.map((key) => ({ ...data.backbones[key], x: x.values[key], y: y.values[key] }));
  points.sort((a, b) => a.x.mean - b.x.mean || a.y.mean - b.y.mean);
  return { x, y, log, points, lacking: all.length - both.length, notPositive: both.length - drawn.length };
}

function draw() {
  const { x, y, log, points, lacking, notPositive } = chosen();
  byId("log").disabled = !x.cost && !y.cost;
  byId("x-title").textContent = `${x.title} →`;
  byId("y-title").textContent = `↑ ${y.title}`;
  byId("detail").textContent = "";
  let message = points.length === 1 ? "1 point." : `${points.length} points.`;
  if (lacking) message += ` Not measured horizontally: ${lacking} with the vertical measure.`;
  if (notPositive) message += ` Not above zero, so not on a logarithmic axis: ${notPositive}.`;
  byId("scatter-count").textContent = message;
  byId("legend").replaceChildren(...data.methods.filter((m) => points.some((p) => p.method === m)).map(legendEntry));
  byId("plot").replaceChildren(...(points.length ? [plot(x, y, log, points)] : []));
  byId("scatter-table").replaceChildren(pointTable(x, y, points));
}

function legendEntry(method) {
  const box = { width: 18, height: 18, viewBox: "-9 -9 18 18", "aria-hidden": "true" };
  return element("li", {}, element("svg", box, glyph(method)), method);
}

function plot(x, y, log, points) {
  const width = Math.max(280, Math.round(byId("plot").clientWidth));
  const height = Math.round(Math.min(460, Math.max(260, 0.6 * width)));
  const [right, bottom] = [width - MARGIN.right, height - MARGIN.bottom];
  const scale = (measure, axis) => {
    const values = points.flatMap(({ [axis]: { mean, half } }) => [mean, mean - (half ?? 0), mean + (half ?? 0)]);
    return log && measure.cost ? logScale(values) : linearScale(values);
  };
  const [across, up] = [scale(x, "x"), scale(y, "y")];
  const left = (value) => MARGIN.left + across.at(value) * (right - MARGIN.left);
  const top = (value) => bottom - up.at(value) * (bottom - MARGIN.top);
  const label = `Scatter plot of ${y.title} against ${x.title}; ${points.length} points`;
  const role = { role: "group", "aria-label": label, "aria-describedby": "scatter-how" };
  const ticks = element("g", { "aria-hidden": "true" });
  for (const value of up.ticks) {
    const text = element("text", { x: MARGIN.left - 8, y: top(value) + 4, "text-anchor": "end" }, up.format(value));
    const line = element("line", { x1: MARGIN.left, x2: right, y1: top(value), y2: top(value) });
    ticks.append(element("g", { class: "tick up", "data-value": value }, line, text));
  }
  for (const value of spaced(across.ticks, left, across.format)) {
    const text = element("text", { x: left(value), y: bottom + 20, "text-anchor": "middle" }, across.format(value));
    const line = element("line", { x1: left(value), x2: left(value), y1: MARGIN.top, y2: bottom });
    ticks.append(element("g", { class: "tick across", "data-value": value }, line, text));
  }
  ticks.append(element("path", { class: "frame", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${right}` }));
  const marks = points.map((point) => mark(point, x, y, left, top));
  moveByArrows(marks);
  const names = labels(points, left, top, right);
  return element("svg", { ...role, viewBox: `0 0 ${width} ${height}` }, ticks, names, ...marks);
}

// Tick labels that would touch are dropped, with their lines.
function spaced(ticks, at, format) {
  let free = -Infinity;
  return ticks.filter((tick) => {
    const half = 4 * format(tick).length;
    const fits = at(tick) - half >= free;
    if (fits) free = at(tick) + half + 4;
    return fits;
  });
}

function mark(point, x, y, left, top) {
  const [cx, cy] = [left(point.x.mean), top(point.y.mean)];
  const label = `${point.label}, ${point.method}: ${y.title} ${point.y.text}; ${x.title} ${point.x.text}`;
  const place = { class: "point", role: "img", "aria-label": label, transform: `translate(${cx} ${cy})` };
  const whole = element("g", { ...place, tabindex: -1, "data-key": point.label });
  whole.append(...intervals(point, left, top, cx, cy), glyph(point.method), element("circle", { class: "hit", r: 12 }));
  for (const event of ["focus", "pointerenter"]) {
    whole.addEventListener(event, () => { byId("detail").textContent = label; });
  }
  return whole;
}

function intervals({ method, x, y }, left, top, cx, cy) {
  const ends = [];
  if (x.half) ends.push({ x1: left(x.mean - x.half) - cx, x2: left(x.mean + x.half) - cx, y1: 0, y2: 0 });
  if (y.half) ends.push({ x1: 0, x2: 0, y1: top(y.mean - y.half) - cy, y2: top(y.mean + y.half) - cy });
  return ends.map((end) => element("line", { class: "interval", style: colour(method), ...end }));
}

// All points are one stop of the Tab key: two thousand stops would trap keyboard users.
function moveByArrows(marks) {
  const STEPS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity };
  const select = (index) => marks.forEach((one, i) => one.setAttribute("tabindex", i === index ? 0 : -1));
  select(0);
  marks.forEach((one, index) => {
    one.addEventListener("focus", () => select(index));
    one.addEventListener("keydown", (event) => {
      if (!(event.key in STEPS)) return;
      event.preventDefault();
      marks[Math.min(marks.length - 1, Math.max(0, index + STEPS[event.key]))].focus();
    });
  });
}

// A name is drawn next to its point if it covers neither a point nor another name.
function labels(points, left, top, right) {
  const group = element("g", { "aria-hidden": "true" });
  if (points.length > 40) return group;
  const taken = points.map((p) => box(left(p.x.mean), top(p.y.mean), 9, 9));
  points.forEach((point, index) => {
    const [cx, cy, half] = [left(point.x.mean), top(point.y.mean), 3.4 * point.label.length];
    const places = [
      { x: cx + 11, y: cy, "text-anchor": "start", own: box(cx + 11 + half, cy, half, 7) },
      { x: cx - 11, y: cy, "text-anchor": "end", own: box(cx - 11 - half, cy, half, 7) },
      { x: cx, y: cy - 16, "text-anchor": "middle", own: box(cx, cy - 16, half, 7) },
      { x: cx, y: cy + 16, "text-anchor": "middle", own: box(cx, cy + 16, half, 7) },
    ];
    const others = taken.filter((_, i) => i !== index);
    const fits = (own) => own.left > MARGIN.left && own.right < right && others.every((other) => apart(own, other));
    const free = places.find(({ own }) => fits(own));
    if (!free) return;
    const { own, y, ...place } = free;
    taken.push(own);
    group.append(element("text", { ...place, y: y + 4 }, point.label));
  });
  return group;
}

const box = (x, y, w, h) => ({ left: x - w, right: x + w, top: y - h, bottom: y + h });
const apart = (a, b) => a.right < b.left || b.right < a.left || a.bottom < b.top || b.bottom < a.top;

function pointTable(x, y, points) {
  const column = (text, kind, first) => element("th", { scope: "col", class: kind, "data-first": first }, text);
  const number = ({ mean, text }) => element("td", { class: "number", "data-value": mean }, text);
  const names = ["backbone", "method"].map((name) => column(name, "", "ascending"));
  const heads = [...names, ...[y, x].map((measure) => column(measure.title, "number wide", "descending"))];
  const rows = points.map((p) => element("tr", {},
    element("th", { scope: "row" }, p.label), element("td", {}, p.method), number(p.y), number(p.x)));
  const title = element("caption", { id: "points-title" }, `${y.title} against ${x.title}`);
  const head = element("thead", {}, element("tr", {}, ...heads));
  const table = element("table", {}, title, head, element("tbody", {}, ...rows));
  makeSortable(table);
  return element("div", { class: "scroll", role: "region", tabindex: 0, "aria-labelledby": "points-title" }, table);
}

function options(select) {
  const groups = new Map();
  data.measures.forEach(({ group, name }, index) => {
    if (!groups.has(group)) groups.set(group, element("optgroup", { label: group }));
    groups.get(group).append(element("option", { value: index }, name));
  });
  select.append(...groups.values());
}

if (data.measures.length) {
  byId("drawing").hidden = false;
  for (const axis of ["x", "y"]) {
    options(byId(axis));
    byId(axis).value = data.start[axis];
    byId(axis).addEventListener("change", draw);
  }
  byId("log").addEventListener("change", draw);
  document.addEventListener("filtered", draw);
  draw();
  let width = byId("plot").clientWidth;
  new ResizeObserver(() => {
    if (byId("plot").clientWidth !== width) draw();
    width = byId("plot").clientWidth;
  }).observe(byId("plot"));
}
