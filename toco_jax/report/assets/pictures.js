// Rows of pictures of an image, over the time of training.

function picturesBlock(block) {
  const moving = [];
  const rows = block.images.map((one) => make("article", { class: "image" },
    make("header", {}, make("b", {}, one.name), " ", make("span", { class: "muted" }, one.note)),
    make("div", { class: "panels" }, ...block.panels.map((panel) => pictureOf(one, panel, moving)))));
  const steps = block.steps;
  const show = (at) => moving.forEach(({ image, texts }) => setPicture(image, texts[at]));
  show(steps.length - 1);
  return make("div", { class: "pictures" },
    block.title ? make("h3", {}, block.title) : null,
    steps.length > 1 ? stepSlider(steps, show) : null,
    legendOf(block.legend),
    make("div", { class: "rows" }, ...rows));
}

function pictureOf(one, panel, moving) {
  const text = one.pictures[panel];
  const image = make("img", { alt: `${panel} of ${one.name}`, class: panel === "image" || panel === "CAM" ? "photo" : "labels" });
  if (Array.isArray(text)) moving.push({ image, texts: text });
  else setPicture(image, text);
  return make("figure", {}, image, make("figcaption", {}, panel));
}

function setPicture(image, text) {
  image.hidden = !text;
  if (text) image.src = source(text);
}

function stepSlider(steps, show) {
  const says = make("output", {}, `step ${steps[steps.length - 1]}`);
  const slider = make("input", { type: "range", min: 0, max: steps.length - 1, value: steps.length - 1,
    "aria-label": "step of training", input: () => {
      says.textContent = `step ${steps[slider.value]}`;
      show(Number(slider.value));
    } });
  return make("div", { class: "slider" }, make("span", {}, `step ${steps[0]}`), slider, says);
}

function legendOf(labels) {
  if (!labels.length) return null;
  return make("div", { class: "keys" }, ...labels.map(([name, colour]) => make("span", { class: "key" },
    make("span", { class: "swatch", style: { background: colour } }), name)));
}
