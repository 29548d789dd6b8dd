"use strict";
// Time and place: which time is at which pixel, and which lanes are seen.

const data = JSON.parse(document.getElementById("data").textContent);
const [AT, NODE, PEER, KIND, OPERATION, TEXT, NUMBER, WAY] = [0, 1, 2, 3, 4, 5, 6, 7];
const LEFT = 56, TOP = 20, QUIET = 300000, LOST = -1;

// Lines come with the time since the line before.
data.lines.reduce((at, line) => (line[AT] += at), 0);
const textOf = (line) => (line[NUMBER] ? `#${line[NUMBER]} ` : "") + data.texts[line[TEXT]];

// The first index whose value is not below `value`.
function below(length, at, value) {
  let [low, high] = [0, length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (at(middle) < value) low = middle + 1; else high = middle;
  }
  return low;
}

// Pairs of a time and its place on a line on which quiet times are short: a gap over 0.3 s grows with its logarithm only.
function squeezed() {
  const times = new Set([0, data.end]);
  for (const line of data.lines) times.add(line[AT]);
  for (const fault of data.faults) { times.add(fault[0]); times.add(fault[1]); }
  for (const span of data.spans) { times.add(span[1]); if (span[2] !== null) times.add(span[2]); }
  const from = Float64Array.from(times).sort(), to = new Float64Array(from.length);
  for (let n = 1; n < from.length; n++) {
    const gap = from[n] - from[n - 1];
    to[n] = to[n - 1] + (gap <= QUIET ? gap : QUIET * (1 + Math.log10(gap / QUIET) / 2));
  }
  return { from, to };
}

function between(from, to, value) {
  if (from.length < 2) return value;
  const n = Math.min(Math.max(below(from.length, (i) => from[i], value), 1), from.length - 1);
  const span = from[n] - from[n - 1];
  return to[n - 1] + (span === 0 ? 0 : ((value - from[n - 1]) * (to[n] - to[n - 1])) / span);
}

const view = {
  squeeze: true, knots: squeezed(),
  places: null,            // of every line, as long as `squeeze` stays
  scale: 1, offset: 0,     // pixels for a unit of place; the place at the left edge
  height: 0, top: 0,       // of a lane, in pixels; 0: all fit. How far lanes are scrolled.
  width: 0, tall: 0,       // of the canvas, in pixels
  lanes: [], laneOf: [],   // the nodes that are seen; where each is, or -2
  shown: [], spans: [],    // indices of what the filters let through
  rows: [], deep: [],      // of each span the row in its lane; of each node how many rows there are
  selected: -1,            // an index of `shown`
};

const place = (time) => (view.squeeze ? between(view.knots.from, view.knots.to, time) : time);
const time = (at) => (view.squeeze ? between(view.knots.to, view.knots.from, at) : at);
const x = (t) => LEFT + (place(t) - view.offset) * view.scale;
const xOf = (number) => LEFT + (view.places[number] - view.offset) * view.scale;
const timeAt = (px) => Math.min(Math.max(time(view.offset + (px - LEFT) / view.scale), 0), data.end);
const spanEnd = (span) => span[2] ?? data.end;

function placeLines() {
  view.places = Float64Array.from(data.lines, (line) => place(line[AT]));
}

// The first lane is the store's; what is on no machine is there.
const laneHeight = () => Math.max(view.height || (view.tall - TOP) / (view.lanes.length + 1), 2);
const laneTop = (lane) => TOP + (lane + 1) * laneHeight() - view.top;
const laneY = (node) => (node === null ? -1 : view.laneOf[node]);
// Operations are above this line of their lane, what happens is on it.
const middle = (lane) => laneTop(lane) + laneHeight() * (lane >= 0 && laneHeight() >= 26 ? 0.72 : 0.5);

// Operations that are open at the same time, of the same machine, are below each other.
function stack() {
  const busy = Array.from({ length: data.nodes }, () => []);
  view.rows = Array(data.spans.length).fill(0);
  for (const number of view.spans) {
    const span = data.spans[number], rows = busy[span[0]];
    let row = rows.findIndex((until) => until < span[1]);
    if (row < 0) row = rows.length;
    rows[row] = spanEnd(span);
    view.rows[number] = row;
  }
  view.deep = busy.map((rows) => Math.max(rows.length, 1));
}

function fit() {
  view.scale = (view.width - LEFT - 20) / Math.max(place(data.end), 1);
  view.offset = 0; view.height = 0; view.top = 0;
}

function zoom(factor, px) {
  const at = view.offset + (px - LEFT) / view.scale;
  const least = (view.width - LEFT - 20) / Math.max(place(data.end), 1);
  view.scale = Math.min(Math.max(view.scale * factor, least), 1);
  view.offset = at - (px - LEFT) / view.scale;
  keepInside();
}

// Makes lanes higher or lower around a pixel.
function stretch(factor, py) {
  const lane = (py - TOP + view.top) / laneHeight(), least = (view.tall - TOP) / (view.lanes.length + 1);
  view.height = Math.min(Math.max(laneHeight() * factor, least), Math.max(160, least));
  view.top = lane * view.height - py + TOP;
  keepInside();
}

function keepInside() {
  const seen = (view.width - LEFT - 20) / view.scale;
  view.offset = Math.min(Math.max(view.offset, 0), Math.max(place(data.end) - seen, 0));
  const all = (view.lanes.length + 1) * laneHeight() + TOP - view.tall;
  view.top = Math.min(Math.max(view.top, 0), Math.max(all, 0));
}
