// Colours, which follow the light or dark theme, and shapes.

const canvas = document.getElementById("lanes");
const pen = canvas.getContext("2d");
const KINDS = ["asked", "says", "effect", "message", "stored", "changed", "fault", "mended", "failed", "violation"];
const OUTCOMES = [
  "committed", "already_done", "previewed", "refused", "aborted", "interrupted", "unknown", "cleanup_pending", "connection_lost", "open",
];

// The style sheet has them all as variables.
const colours = {};
function takeColours() {
  const style = getComputedStyle(document.documentElement);
  const names = [...KINDS, ...OUTCOMES, "paper", "band", "store", "ink", "soft", "edge", "arrow", "struck", "everywhere", "chosen", "onSpan", "onBroke"];
  for (const name of names) colours[name] = style.getPropertyValue("--" + name).trim();
}
takeColours();

function dot(px, lane, size, colour) {
  pen.fillStyle = colour;
  pen.fillRect(px - size / 2, middle(lane) - size / 2, size, size);
}

function cross(px, y, size, colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 2;
  pen.beginPath();
  pen.moveTo(px - size, y - size); pen.lineTo(px + size, y + size);
  pen.moveTo(px - size, y + size); pen.lineTo(px + size, y - size);
  pen.stroke();
}

function ring(px, y, size, colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 1.5;
  pen.beginPath();
  pen.arc(px, y, size, 0, 7);
  pen.stroke();
}

function upright(px, colour, width) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  pen.moveTo(px, TOP);
  pen.lineTo(px, view.tall);
  pen.stroke();
}

function arrow(px, from, tip, to) {
  pen.moveTo(px, from);
  pen.lineTo(tip, to);
  if (laneHeight() < 8) return;
  const angle = Math.atan2(to - from, tip - px);
  for (const turn of [-0.4, 0.4]) {
    pen.moveTo(tip, to);
    pen.lineTo(tip - 6 * Math.cos(angle + turn), to - 6 * Math.sin(angle + turn));
  }
}

// As much of a text as there is room for, from a pixel on.
function fitted(text, left, room, y, colour) {
  if (room < 24) return;
  pen.fillStyle = colour;
  if (pen.measureText(text).width > room) {
    const letter = pen.measureText(text).width / text.length;
    text = text.slice(0, Math.max(Math.floor(room / letter) - 1, 0)) + "…";
  }
  if (text.length > 2) pen.fillText(text, left, y);
}

// A text on a ground of its own, which nothing behind it shines through.
function flag(text, right, y, ground, ink) {
  const wide = pen.measureText(text).width + 10, left = Math.max(right - wide, LEFT + 2);
  pen.fillStyle = ground;
  pen.fillRect(left, y - 8, wide, 16);
  pen.fillStyle = ink;
  pen.fillText(text, left + 5, y);
}
