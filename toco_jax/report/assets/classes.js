// IoU per class as bars, and confusion matrices.

function classesBlock(block) {
  const body = make("div", { class: "columns" });
  let isSorted = false;
  const choice = make("select", { "aria-label": "scores", change: () => draw() },
    ...block.rows.map((row, i) => make("option", { value: i }, row.label)));
  const draw = () => {
    const row = block.rows[choice.value];
    body.replaceChildren(bars(row.names, row.iou.map((value) => [value]), isSorted), row.matrix ? matrix(row.matrix) : "");
  };
  draw();
  const sorted = toggle(false, (isOn) => { isSorted = isOn; draw(); }, "sort by IoU");
  return make("div", {}, make("div", { class: "keys" }, choice, sorted), body, note(block.note));
}

function groupedBlock(block) {
  const body = make("div");
  let isSorted = false;
  const draw = () => body.replaceChildren(bars(block.names, block.iou, isSorted));
  draw();
  return make("div", {},
    make("div", { class: "keys" },
      ...block.groups.map((name, i) => make("span", { class: "key" },
        make("span", { class: "swatch", style: { background: `var(--series-${i % 8})` } }), name)),
      toggle(false, (isOn) => { isSorted = isOn; draw(); }, "sort by IoU")),
    body);
}

// Bars of each class: `values` holds a list for each, of percentages or null.
function bars(names, values, isSorted) {
  const order = names.map((_, i) => i);
  if (isSorted) order.sort((a, b) => (values[b][0] ?? -1) - (values[a][0] ?? -1));
  const rows = order.flatMap((i) => [
    make("div", { class: "name", title: names[i] }, names[i]),
    make("div", { class: "bars" }, ...values[i].map((value, g) => make("div", { class: "bar" },
      make("span", { style: { width: `${value ?? 0}%`, background: `var(--series-${g % 8})` } })))),
    make("div", { class: "number" }, ...values[i].map((value) => make("div", {}, value === null ? "absent" : value.toFixed(1)))),
  ]);
  return make("div", { class: "classbars" }, ...rows);
}

function matrix(data) {
  const holder = make("div", { class: "scroll" });
  const readout = make("p", { class: "note", "aria-live": "polite" }, "Point at a cell for its share.");
  onWidth(holder, (width) => holder.replaceChildren(matrixPicture(data, width, readout)));
  return make("div", { class: "matrix" }, holder, readout, note(data.note));
}

function matrixPicture(data, width, readout) {
  const count = data.names.length;
  const longest = Math.max(...data.names.map((name) => name.length));
  const label = Math.min(130, Math.max(40, 6.5 * longest + 8), 0.35 * width);
  const cell = Math.max(7, Math.min(52, (width - label - 2) / count));
  const [right, bottom] = [label + cell * count, cell * count];
  const svg = make("svg", { width: Math.ceil(right), height: Math.ceil(bottom + label), role: "img",
    "aria-label": "confusion matrix: rows the truth, columns the prediction" });
  const short = (name) => (6.5 * name.length > label ? `${name.slice(0, Math.floor(label / 6.5) - 1)}…` : name);
  data.names.forEach((name, i) => {
    if (cell < 9) return;
    const middle = cell * (i + 0.5) + 4;
    svg.append(make("text", { class: "tick", x: label - 6, y: middle, "text-anchor": "end" }, short(name)),
      make("text", { class: "tick", "text-anchor": "end",
        transform: `translate(${label + middle},${bottom + 8}) rotate(-90)` }, short(name)));
  });
  data.shares.forEach((row, i) => row.forEach((share, j) => {
    const box = { x: label + cell * j, y: cell * i, width: cell - 1, height: cell - 1 };
    const words = `${data.names[i]} taken for ${data.names[j]}: ${share.toFixed(1)} % of its pixels`;
    const tell = () => { readout.textContent = i === j ? `${data.names[i]}: ${share.toFixed(1)} % of its pixels are right` : words; };
    svg.append(make("rect", { class: "cell", ...box, "fill-opacity": Math.sqrt(share / 100),
      pointerenter: tell, pointerdown: tell }));
    if (cell > 26) svg.append(make("text", { class: share > 35 ? "share strong" : "share", x: box.x + cell / 2,
      y: box.y + cell / 2 + 4, "text-anchor": "middle" }, share >= 9.95 ? share.toFixed(0) : share.toFixed(1)));
  }));
  return svg;
}
