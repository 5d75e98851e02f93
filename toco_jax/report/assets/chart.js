// Curves over the training step: values under the pointer, series on and off, a logarithmic axis.

const MARGIN = { left: 52, right: 24, top: 10, bottom: 26 };

function chart(block) {
  const hidden = new Set();
  let isSmooth = block.noisy && block.series.some((one) => one.x.length > 60);
  let isLog = block.log && block.series.every((one) => one.y.every((y) => y === null || y > 0));
  let width = 0;
  const plot = make("div", { class: "plot" });
  const draw = () => drawPlot(plot, block, { hidden, isLog, isSmooth, width });
  const keys = block.series.map((one, i) =>
    toggle(true, (isOn) => { isOn ? hidden.delete(i) : hidden.add(i); draw(); },
      make("span", { class: "swatch", style: { background: colourOf(one, i) } }), one.name));
  const log = toggle(isLog, (isOn) => { isLog = isOn; draw(); }, "log");
  const smooth = isSmooth ? toggle(true, (isOn) => { isSmooth = isOn; draw(); }, "smooth") : null;
  onWidth(plot, (now) => { width = now; draw(); });
  const title = block.unit ? `${block.title}, ${block.unit}` : block.title;
  return make("figure", { class: "chart" },
    make("figcaption", {}, make("h3", {}, title), make("span", { class: "switches" }, smooth, log)), plot, block.series.length > 1 || block.series[0].colour !== undefined ? make("div", { class: "keys" }, ...keys) : null);
}

// A series has a colour of its own where several charts show the same runs.
function colourOf(one, i) {
  return `var(--series-${(one.colour ?? i) % 8})`;
}

function drawPlot(plot, block, { hidden, isLog, isSmooth, width }) {
  const height = Math.round(Math.min(260, Math.max(180, 0.5 * width)));
  const drawn = block.series.map((one, i) => ({ ...one, i })).filter((one) => !hidden.has(one.i));
  const axes = axesOf(drawn, isLog, width, height);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": block.title });
  for (const at of axes.yTicks) {
    svg.append(
      make("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: axes.y(at), y2: axes.y(at) }),
      make("text", { class: "tick", x: MARGIN.left - 6, y: axes.y(at) + 4, "text-anchor": "end" }, shown(at)));
  }
  for (const at of axes.xTicks) {
    svg.append(make("text", { class: "tick", x: axes.x(at), y: height - 8, "text-anchor": "middle" }, shown(at)));
  }
  for (const one of drawn) {
    const colour = colourOf(one, one.i);
    if (one.low) svg.append(make("path", { class: "band", d: bandPath(one, axes), style: { fill: colour } }));
    const smooth = isSmooth && one.x.length > 60 ? smoothed(one.y) : null;
    const line = (kind, y) => make("path", { class: `curve ${kind}`, d: linePath(one, y, axes), style: { stroke: colour } });
    svg.append(line(smooth ? "raw" : "", one.y));
    if (smooth) svg.append(line("", smooth));
    if (one.x.length < 30) svg.append(...one.x.map((x, k) => dot(axes, x, one.y[k], colour)).filter(Boolean));
  }
  const pointer = make("g", { class: "pointer" });
  const tip = make("div", { class: "tip", hidden: "" });
  svg.append(pointer);
  svg.addEventListener("pointermove", (event) => {
    const at = event.clientX - svg.getBoundingClientRect().left;
    showValues(pointer, tip, { block, drawn, axes, width, height }, at);
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; pointer.replaceChildren(); });
  plot.replaceChildren(svg, tip);
}

function axesOf(drawn, isLog, width, height) {
  const usable = (y) => y !== null && (!isLog || y > 0);
  const xs = drawn.flatMap((one) => [one.x[0], one.x[one.x.length - 1]]);
  const ys = drawn.flatMap((one) => [one.y, one.low || [], one.high || []].flat()).filter(usable);
  const [xLow, xHigh] = xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 1];
  let low = ys.reduce((a, b) => Math.min(a, b), Infinity);
  let high = ys.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!ys.length) [low, high] = [isLog ? 1 : 0, isLog ? 10 : 1];
  const grow = isLog ? 1.05 : 0.05 * (high - low || Math.abs(high) || 1);
  [low, high] = isLog ? [low / grow, high * grow] : [low < 0 ? low - grow : Math.max(0, low - grow), high + grow];
  const scaled = isLog ? Math.log10 : (y) => y;
  const span = scaled(high) - scaled(low) || 1;
  const plotWidth = width - MARGIN.left - MARGIN.right, plotHeight = height - MARGIN.top - MARGIN.bottom;
  return {
    usable,
    x: (x) => MARGIN.left + (plotWidth * (x - xLow)) / (xHigh - xLow || 1),
    y: (y) => MARGIN.top + plotHeight * (1 - (scaled(y) - scaled(low)) / span),
    xTicks: evenTicks(xLow, xHigh, Math.max(2, Math.floor(plotWidth / 90))),
    yTicks: isLog ? logTicks(low, high) : evenTicks(low, high, 5),
  };
}

// At most `most` round numbers between two others.
function evenTicks(low, high, most) {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * (1 - 1e-9));
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high * (1 + 1e-9); k++) ticks.push(k * step);
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  const decades = Math.log10(high / low);
  const skip = Math.ceil(decades / 6);
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += skip) {
    for (const n of decades < 1 ? [1, 2, 3, 5, 7] : decades < 2.5 ? [1, 2, 5] : [1]) ticks.push(n * 10 ** power);
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

// The mean of each value's neighbours, a twentieth of the curve on either side, fewer at its ends.
function smoothed(values) {
  const most = Math.round(values.length / 20);
  return values.map((_, i) => {
    const reach = Math.min(most, i, values.length - 1 - i);
    const near = values.slice(i - reach, i + reach + 1);
    return near.includes(null) ? values[i] : near.reduce((a, b) => a + b) / near.length;
  });
}

function linePath(one, values, axes) {
  let isDown = false;
  return one.x.map((x, k) => {
    if (!axes.usable(values[k])) { isDown = false; return ""; }
    const command = isDown ? "L" : "M";
    isDown = true;
    return `${command}${axes.x(x).toFixed(1)},${axes.y(values[k]).toFixed(1)}`;
  }).join("");
}

function bandPath(one, axes) {
  const known = one.x.map((_, k) => k).filter((k) => axes.usable(one.low[k]) && axes.usable(one.high[k]));
  const at = (k, values) => `${axes.x(one.x[k]).toFixed(1)},${axes.y(values[k]).toFixed(1)}`;
  const edge = [...known.map((k) => at(k, one.high)), ...known.reverse().map((k) => at(k, one.low))];
  return edge.length ? `M${edge.join("L")}Z` : "";
}

function dot(axes, x, y, colour) {
  if (!axes.usable(y)) return null;
  return make("circle", { cx: axes.x(x), cy: axes.y(y), r: 3, style: { fill: colour } });
}

function showValues(pointer, tip, { block, drawn, axes, width, height }, at) {
  const steps = drawn.flatMap((one) => one.x);
  if (!steps.length) return;
  const nearest = steps.reduce((a, b) => (Math.abs(axes.x(b) - at) < Math.abs(axes.x(a) - at) ? b : a));
  const x = axes.x(nearest);
  pointer.replaceChildren(make("line", { class: "cross", x1: x, x2: x, y1: MARGIN.top, y2: height - MARGIN.bottom }));
  const rows = drawn.map((one) => {
    const k = one.x.indexOf(nearest);
    if (k < 0 || one.y[k] === null) return null;
    const colour = colourOf(one, one.i);
    if (axes.usable(one.y[k])) pointer.append(dot(axes, nearest, one.y[k], colour));
    const spread = one.low ? ` (${shown(one.low[k])} to ${shown(one.high[k])})` : "";
    return make("div", {}, make("span", { class: "swatch", style: { background: colour } }),
      `${one.name} ${shown(one.y[k])}${spread}`);
  });
  tip.replaceChildren(make("b", {}, `${block.axis} ${shown(nearest)}`), ...rows.filter(Boolean));
  tip.hidden = false;
  const left = Math.min(Math.max(0, x + 12), width - tip.offsetWidth);
  tip.style.left = `${x + 12 + tip.offsetWidth > width ? Math.max(0, x - 12 - tip.offsetWidth) : left}px`;
}
