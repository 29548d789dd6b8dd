// Draws what is in view on the canvas, and counts it.

function draw() {
  const ratio = window.devicePixelRatio || 1;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, view.width, view.tall);
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  drawLanes();
  pen.save();
  pen.beginPath();
  pen.rect(LEFT, TOP, view.width - LEFT, view.tall - TOP);
  pen.clip();
  const drawn = { lanes: view.lanes.length, faults: drawFaults() };
  drawn.messages = drawMessages();
  // Over the messages: where lanes are thin, nothing would be left of them.
  drawn.spans = drawSpans();
  drawn.lines = drawLines();
  drawn.violations = drawViolations();
  drawSelected();
  pen.restore();
  drawNames();
  drawRuler();
  for (const [name, count] of Object.entries(drawn)) document.body.dataset[name] = count;
  document.body.dataset.selected = view.selected < 0 ? "" : view.selected + 1;
  document.body.dataset.seconds = ((timeAt(view.width) - timeAt(LEFT)) / 1e6).toFixed(3);
  document.getElementById("counts").textContent =
    `in view: ${drawn.lanes} nodes, ${drawn.spans} operations, ${drawn.faults} faults, ${drawn.lines} lines`;
}

const isSeen = (from, to) => x(to) >= LEFT && x(from) <= view.width;
const isLaneSeen = (lane) => laneTop(lane) + laneHeight() > TOP && laneTop(lane) < view.tall;
const named = new Set(data.violations.flatMap((violation) => violation[3]));

function drawLanes() {
  const height = laneHeight();
  for (let lane = -1; lane < view.lanes.length; lane++) {
    if (!isLaneSeen(lane)) continue;
    pen.fillStyle = lane === -1 ? colours.store : lane % 2 ? colours.paper : colours.band;
    pen.fillRect(0, laneTop(lane), view.width, height);
  }
}

function drawNames() {
  const height = laneHeight(), step = Math.max(1, Math.ceil(13 / height));
  pen.fillStyle = colours.paper;
  pen.fillRect(0, TOP, LEFT - 2, view.tall - TOP);
  const written = (text, y, colour) => { pen.fillStyle = colour; pen.fillText(text, 6, y); };
  // As many names as there is room for; the first has to stay clear of the store's.
  let free = TOP + 6;
  if (laneTop(-1) + height > TOP) {
    const y = Math.max(laneTop(-1) + height / 2, free);
    written("store", y, colours.stored);
    free = y + 13;
  }
  const late = [];
  for (let lane = 0; lane < view.lanes.length; lane++) {
    const y = laneTop(lane) + height / 2, name = "m" + (view.lanes[lane] + 1);
    if (!isLaneSeen(lane)) continue;
    if (named.has(view.lanes[lane])) late.push([name, Math.max(y, free)]);
    else if (y >= free && lane % step === 0) written(name, y, colours.ink);
  }
  // What was broken names these.
  for (const [name, y] of late) {
    pen.fillStyle = colours.violation;
    pen.fillRect(2, y - 7, LEFT - 6, 14);
    written(name, y, colours.onBroke);
  }
}

function drawRuler() {
  pen.fillStyle = colours.paper;
  pen.fillRect(0, 0, view.width, TOP);
  pen.strokeStyle = colours.edge;
  pen.lineWidth = 1;
  for (let px = LEFT; px < view.width - 60; px += 110) {
    const first = timeAt(px), next = timeAt(px + 110);
    pen.beginPath(); pen.moveTo(px + 0.5, 4); pen.lineTo(px + 0.5, TOP); pen.stroke();
    pen.fillStyle = colours.ink;
    pen.fillText((first / 1e6).toFixed(next - first < 2e6 ? 4 : 1) + " s", px + 4, TOP / 2);
  }
}

function drawFaults() {
  const height = laneHeight();
  let count = 0;
  for (const [from, to, machines, text] of data.faults) {
    const lanes = machines.map(laneY).filter((lane) => lane >= 0);
    if ((machines.length && !lanes.length) || !isSeen(from, to)) continue;
    count++;
    const [left, wide] = [x(from), Math.max(x(to) - x(from), 2)];
    if (!machines.length) {
      pen.fillStyle = colours.everywhere;
      pen.fillRect(left, TOP, wide, view.tall);
    }
    for (const lane of machines.length ? lanes : [-1]) {
      pen.fillStyle = colours.struck;
      pen.fillRect(left, laneTop(lane), wide, height);
      const start = Math.max(left, LEFT) + 3;
      if (height >= 26) fitted(text, start, left + wide - start, laneTop(lane) + height - 8, colours.fault);
    }
  }
  return count;
}

function drawSpans() {
  const height = laneHeight(), of = view.selected < 0 ? null : data.lines[view.shown[view.selected]][OPERATION];
  let count = 0;
  for (const number of view.spans) {
    const span = data.spans[number], [node, from, , text, operation, outcome, code] = span;
    if (!isSeen(from, spanEnd(span))) continue;
    count++;
    const lane = laneY(node);
    if (!isLaneSeen(lane)) continue;
    const [left, wide] = [x(from), Math.max(x(spanEnd(span)) - x(from), 2)];
    const thick = height < 26 ? Math.max(height * 0.7, 5) : Math.min((height * 0.58) / view.deep[node], 16);
    const y = laneTop(lane) + (height < 26 ? (height - thick) / 2 : 1 + view.rows[number] * thick);
    pen.fillStyle = colours[outcome] || colours.open;
    pen.fillRect(left, y, wide, Math.max(thick - 1, 1));
    if (of !== null && of === operation) { pen.strokeStyle = colours.chosen; pen.lineWidth = 2; pen.strokeRect(left, y, wide, thick - 1); }
    const start = Math.max(left, LEFT) + 3;
    if (thick >= 11) fitted(`${text}: ${outcome.replace("_", " ")} ${code || ""}`, start, left + wide - start - 3, y + thick / 2, colours.onSpan);
  }
  return count;
}

function inView() {
  const at = (n) => view.places[view.shown[n]];
  const edge = (px) => view.offset + (px - LEFT) / view.scale;
  return [below(view.shown.length, at, edge(LEFT - 12)), below(view.shown.length, at, edge(view.width + 12))];
}

function drawMessages() {
  const [first, last] = inView(), seen = new Set(), lost = [];
  let count = 0;
  // Many lines over each other must not be a wall.
  pen.globalAlpha = last - first > 30000 ? 0.12 : last - first > 4000 ? 0.22 : 0.7;
  pen.strokeStyle = colours.arrow;
  pen.lineWidth = 1;
  pen.beginPath();
  for (let n = first; n < last; n++) {
    const line = data.lines[view.shown[n]], way = line[WAY];
    if (way === null) continue;
    const [px, lane, other] = [xOf(view.shown[n]), laneY(line[NODE]), laneY(line[PEER])];
    if (lane === -2 || other === -2 || lane === other) continue;
    count++;
    const key = (Math.round(px) * 256 + lane + 1) * 256 + other + 1;
    if (seen.has(key)) continue;
    seen.add(key);
    if (way === LOST) lost.push([px, middle(lane), middle(other)]);
    else arrow(px, middle(lane), x(line[AT] + way), middle(other));
  }
  pen.stroke();
  pen.globalAlpha = 1;
  // What is lost ends half-way.
  pen.setLineDash([4, 3]);
  pen.globalAlpha = lost.length > 200 ? 0.35 : 1;
  for (const [px, from, to] of lost) {
    pen.strokeStyle = colours.fault;
    pen.beginPath(); pen.moveTo(px, from); pen.lineTo(px + 5, (from + to) / 2); pen.stroke();
  }
  pen.setLineDash([]);
  pen.globalAlpha = 1;
  for (const [px, from, to] of lost) cross(px + 5, (from + to) / 2, 2, colours.fault);
  return count;
}

function drawLines() {
  const [first, last] = inView(), size = Math.max(Math.min(laneHeight() * 0.35, 6), 1.5);
  // Dots on the same pixel are drawn once.
  const seen = new Set(), late = [];
  for (let n = first; n < last; n++) {
    const line = data.lines[view.shown[n]], [px, lane] = [xOf(view.shown[n]), laneOfLine(line)];
    const key = (Math.round(px) * 256 + lane + 1) * 16 + line[KIND], name = data.kinds[line[KIND]];
    if (seen.has(key) || !isLaneSeen(lane)) continue;
    seen.add(key);
    if (name === "fault" || name === "mended" || name === "failed") late.push([px, lane, name]);
    else dot(px, lane, size, colours[name]);
  }
  // What goes wrong is never hidden under something else.
  for (const [px, lane, name] of late) (name === "mended" ? ring : cross)(px, middle(lane), Math.max(size * 0.8, 3), colours[name]);
  return last - first;
}

function drawViolations() {
  data.violations.forEach(([at, invariant], n) => {
    upright(x(at), colours.violation, 3);
    flag("✗ " + invariant, x(at) - 4, TOP + 12 + n * 18, colours.violation, colours.onBroke);
  });
  return data.violations.filter(([at]) => isSeen(at, at)).length;
}

function drawSelected() {
  if (view.selected < 0) return;
  const number = view.shown[view.selected], line = data.lines[number], peer = line[PEER];
  upright(xOf(number), colours.chosen, 1);
  ring(xOf(number), middle(laneOfLine(line)), 7, colours.chosen);
  if (peer !== null && laneY(peer) !== -2) ring(xOf(number), middle(laneY(peer)), 4, colours.chosen);
}
