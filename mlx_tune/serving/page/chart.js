// The loss over the steps, as a line.

import { h, svg } from "./dom.js";
import { decimal } from "./words.js";

const MOST_WIDTH = 960; // pixels, as all of these
const HEIGHT = 280;
const LEFT = 44;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 34;

/** Returns a figure of [step, loss] pairs; `steps` is how far the axis goes, `room` how wide. */
export function chart(losses, steps, room) {
  const width = Math.min(Math.max(room, 240), MOST_WIDTH); // drawn at its size, letters stay legible
  const known = losses.filter(([, loss]) => Number.isFinite(loss));
  const top = niceTop(Math.max(...known.map(([, loss]) => loss)));
  const x = (step) => LEFT + (step / Math.max(steps, 1)) * (width - LEFT - RIGHT);
  const y = (loss) => TOP + (1 - loss / top) * (HEIGHT - TOP - BOTTOM);
  const points = known
    .map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`)
    .join(" ");
  const [first, last] = [known[0], known.at(-1)];
  const label = `Loss, from ${decimal(first[1], { digits: 2 })} at step ${first[0]} to ${decimal(last[1], { digits: 2 })} at step ${last[0]}`;
  return h(
    "figure",
    { class: "chart" },
    svg(
      "svg",
      {
        viewBox: `0 0 ${width} ${HEIGHT}`,
        width,
        height: HEIGHT,
        role: "img",
        "aria-label": label,
      },
      ...[0, 0.25, 0.5, 0.75, 1].map((part) =>
        rule(y(part * top), decimal(part * top, { digits: top < 2 ? 2 : 1 }), width),
      ),
      ...[0, 0.5, 1].map((part) => stepLabel(x(part * steps), Math.round(part * steps), part)),
      svg("polyline", { class: "loss", points }),
      svg("circle", { class: "latest", cx: x(last[0]), cy: y(last[1]), r: 4 }),
    ),
    h("figcaption", {}, "Loss per taught token, in nats, over the steps"),
  );
}

function rule(y, label, width) {
  return svg(
    "g",
    {},
    svg("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }),
    svg("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, label),
  );
}

function stepLabel(x, step, part) {
  const anchor = ["start", "middle", "end"][part * 2];
  return svg(
    "text",
    { x, y: HEIGHT - 10, "text-anchor": anchor },
    part === 1 ? `${step} steps` : String(step),
  );
}

/** Returns the least of 1, 2, 4, 5 times a power of ten that is no less than a value. */
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-6)));
  return [1, 2, 4, 5, 10].map((factor) => factor * power).find((top) => top >= value) ?? value;
}
