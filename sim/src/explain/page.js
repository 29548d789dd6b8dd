// Filters, stepping, mouse and keyboard.

const by = (id) => document.getElementById(id);
// A line whose own lane is not seen is on that of the other end.
const laneOfLine = (line) => (laneY(line[NODE]) === -2 && line[PEER] !== null ? laneY(line[PEER]) : laneY(line[NODE]));

// "m1, m4-m6": a test of a node's number, which counts from 0.
function nodeTest(text) {
  const parts = text.toLowerCase().split(/[\s,]+/).filter(Boolean).map((part) => part.match(/^m?(\d+)(?:-m?(\d+))?$/));
  if (!parts.length) return () => true;
  return (node) => parts.some((part) => part && node + 1 >= +part[1] && node + 1 <= +(part[2] || part[1]));
}

function filter() {
  const wanted = by("operation").value.trim().toLowerCase(), isNode = nodeTest(by("node").value);
  const kept = view.selected < 0 ? -1 : view.shown[view.selected];
  view.lanes = [...Array(data.nodes).keys()].filter(isNode);
  view.laneOf = Array(data.nodes).fill(-2);
  view.lanes.forEach((node, lane) => { view.laneOf[node] = lane; });
  const operations = new Set();
  view.spans = [];
  data.spans.forEach(([node, , , text, operation, outcome, code], n) => {
    const id = operation === null ? "" : data.operations[operation];
    if (!`${text} ${id} ${outcome} ${code || ""}`.toLowerCase().includes(wanted)) return;
    if (wanted && operation !== null) operations.add(operation);
    if (isNode(node)) view.spans.push(n);
  });
  const says = data.texts.map((text) => !wanted || text.toLowerCase().includes(wanted));
  view.shown = [];
  data.lines.forEach((line, n) => {
    const [node, peer] = [line[NODE], line[PEER]];
    const here = (node === null && peer === null) || (node !== null && isNode(node)) || (peer !== null && isNode(peer));
    const about = says[line[TEXT]] || (line[OPERATION] !== null && operations.has(line[OPERATION]));
    if (data.kinds[line[KIND]] === "violation" || (here && about)) view.shown.push(n);
  });
  const at = below(view.shown.length, (n) => view.shown[n], kept);
  view.selected = kept >= 0 && view.shown[at] === kept ? at : -1;
  stack();
  keepInside();
  detail();
  plan();
}

function select(number) {
  if (!view.shown.length) return;
  view.selected = Math.min(Math.max(number, 0), view.shown.length - 1);
  const chosen = view.shown[view.selected], px = xOf(chosen);
  if (px < LEFT + 20 || px > view.width - 40) view.offset = view.places[chosen] - (view.width - LEFT) / 2 / view.scale;
  const lane = laneOfLine(data.lines[chosen]);
  if (laneTop(lane) < TOP || laneTop(lane) + laneHeight() > view.tall) view.top += laneTop(lane) - view.tall / 2;
  keepInside();
  detail();
  plan();
}

// The next line (or the one before) of one of these kinds.
function jump(step, ...kinds) {
  const from = view.selected < 0 && step < 0 ? view.shown.length : view.selected;
  for (let n = from + step; n >= 0 && n < view.shown.length; n += step) {
    const line = data.lines[view.shown[n]];
    if (kinds.includes(data.kinds[line[KIND]]) || (kinds.includes("fault") && line[WAY] === LOST)) return select(n);
  }
}

function describe(number) {
  const line = data.lines[view.shown[number]], [at, node, peer, kind, operation] = line;
  const where = (node === null ? "store" : "m" + (node + 1)) + (peer === null ? "" : ` ~ m${peer + 1}`);
  const id = operation === null ? "" : ` [${data.operations[operation]}]`;
  return `${(at / 1e6).toFixed(4).padStart(10)} ${where.padEnd(12)} ${data.kinds[kind].padEnd(9)} ${textOf(line)}${id}`;
}

let help = null;
function detail() {
  const box = by("detail");
  if (help === null) help = box.textContent;
  if (view.selected < 0) { box.textContent = help; return; }
  box.textContent = "";
  for (let n = Math.max(view.selected - 2, 0); n <= Math.min(view.selected + 3, view.shown.length - 1); n++) {
    const row = document.createElement(n === view.selected ? "b" : "span");
    row.textContent = describe(n) + "\n";
    row.className = data.kinds[data.lines[view.shown[n]][KIND]];
    box.append(row);
  }
}

// The line nearest to a point of the canvas.
function nearest(px, y) {
  const [first, last] = inView();
  let [best, least] = [-1, 400];
  for (let n = first; n < last; n++) {
    const away = (xOf(view.shown[n]) - px) ** 2 + (middle(laneOfLine(data.lines[view.shown[n]])) - y) ** 2;
    if (away < least) [best, least] = [n, away];
  }
  return best;
}

let planned = false;
function plan() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => { planned = false; draw(); });
}

function resize() {
  const ratio = window.devicePixelRatio || 1, all = view.width === 0;
  view.width = canvas.clientWidth;
  view.tall = canvas.clientHeight;
  canvas.width = view.width * ratio;
  canvas.height = view.tall * ratio;
  if (all) fit();
  zoom(1, LEFT);
  plan();
}

// `#step=3&node=m2&operation=ns1`: a view that can be passed on.
function fromAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const id of ["operation", "node"]) if (wanted.has(id)) by(id).value = wanted.get(id);
  filter();
  if (wanted.has("step")) select(+wanted.get("step") - 1);
}

const centre = () => (view.selected >= 0 ? xOf(view.shown[view.selected]) : view.width / 2);
const zoomBy = (factor) => { zoom(factor, centre()); plan(); };
const higher = (factor) => {
  stretch(factor, view.selected >= 0 ? middle(laneOfLine(data.lines[view.shown[view.selected]])) : TOP);
  plan();
};
const move = (right, down) => { view.offset += (right * view.width) / view.scale; view.top += down * view.tall; keepInside(); plan(); };
const all = () => { fit(); plan(); };
const broken = () => jump(view.selected < 0 ? -1 : 1, "violation");

const KEYS = {
  ArrowRight: () => select(view.selected + 1), ArrowLeft: () => select(view.selected < 0 ? 0 : view.selected - 1),
  ArrowDown: () => move(0, 0.2), ArrowUp: () => move(0, -0.2),
  PageDown: () => move(0.8, 0), PageUp: () => move(-0.8, 0),
  Home: () => select(0), End: () => select(view.shown.length - 1),
  f: () => jump(1, "fault"), F: () => jump(-1, "fault"), a: () => jump(1, "asked"), A: () => jump(-1, "asked"),
  v: broken, "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: all,
  "]": () => higher(1.5), "[": () => higher(1 / 1.5),
  o: () => by("operation").focus(), n: () => by("node").focus(),
};
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" && event.target.type !== "checkbox") {
    if (event.key === "Escape" || event.key === "Enter") canvas.focus();
    return;
  }
  // A button that has the focus does what Enter and the space bar say; everything else is for the lanes.
  if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[event.key]();
});

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  // With shift some browsers turn the wheel sideways.
  const turn = event.deltaY || event.deltaX;
  if (event.shiftKey) stretch(Math.exp(-turn / 400), event.offsetY); else zoom(Math.exp(-turn / 300), event.offsetX);
  plan();
}, { passive: false });

let drag = null;
canvas.addEventListener("pointerdown", (event) => {
  drag = { x: event.offsetX, y: event.offsetY, offset: view.offset, top: view.top, moved: false };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const [dx, dy] = [event.offsetX - drag.x, event.offsetY - drag.y];
  drag.moved = drag.moved || Math.abs(dx) + Math.abs(dy) > 4;
  if (!drag.moved) return;
  view.offset = drag.offset - dx / view.scale;
  view.top = drag.top - dy;
  keepInside();
  plan();
});
canvas.addEventListener("pointerup", (event) => {
  const hit = drag && !drag.moved ? nearest(event.offsetX, event.offsetY) : -1;
  drag = null;
  if (hit >= 0) select(hit);
});

by("in").onclick = () => zoomBy(1.5);
by("out").onclick = () => zoomBy(1 / 1.5);
by("all").onclick = all;
by("higher").onclick = () => higher(1.5);
by("lower").onclick = () => higher(1 / 1.5);
by("operation").oninput = by("node").oninput = filter;
by("squeeze").onchange = (event) => { view.squeeze = event.target.checked; placeLines(); fit(); plan(); };
window.addEventListener("resize", resize);
window.addEventListener("hashchange", fromAddress);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { takeColours(); plan(); });

by("title").textContent = document.title =
  `${data.title}: ${data.nodes} machines, ${data.servers} with a server of the store, ${Math.round(data.end / 1e6)} s`;
for (const name of [...OUTCOMES, ...KINDS]) {
  const [item, square] = [document.createElement("span"), document.createElement("i")];
  square.style.background = `var(--${name})`;
  item.append(square, name.replace("_", " "));
  by("legend").append(item);
}
for (const id of data.operations.slice(0, 500)) by("operations").append(new Option("", id));
if (data.violations.length) {
  const [at, invariant, what] = data.violations[0];
  by("broke").hidden = false;
  by("broke").textContent = `✗ ${(at / 1e6).toFixed(3)} s  ${invariant}: ${what}`;
  by("broke").onclick = broken;
}
if (data.happened > data.lines.length) {
  by("left").hidden = false;
  by("left").textContent = `${data.lines.length} of ${data.happened} lines are here: faults, questions and what the store took of the ` +
    `whole time, everything since ${(data.since / 1e6).toFixed(1)} s. explain --from S --until S shows another time.`;
}
placeLines();
resize();
fromAddress();
draw();
