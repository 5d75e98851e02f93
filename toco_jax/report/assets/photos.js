// Photos under their masks: how opaque, which classes, and the original at a click.

function photosBlock(block) {
  const hidden = new Set([0]);
  const colours = block.labels.map(([, colour]) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  const layers = block.photos.map((photo) => layerOf(photo, colours, hidden));
  const redraw = () => layers.forEach((layer) => layer.draw());
  const chips = block.labels.map(([name, colour], k) => k === 0 || !block.present.includes(k) ? null
    : toggle(true, (isOn) => { isOn ? hidden.delete(k) : hidden.add(k); redraw(); },
      make("span", { class: "swatch", style: { background: colour } }), name));
  const grid = make("div", { class: "photos" });
  const opacity = make("input", { type: "range", min: 0, max: 100, value: 60, "aria-label": "opacity of the masks",
    input: () => grid.style.setProperty("--opacity", opacity.value / 100) });
  grid.style.setProperty("--opacity", 0.6);
  const dialog = make("dialog", { class: "original", click: () => dialog.close() });
  grid.append(...block.photos.map((photo, i) => photoCard(photo, layers[i].canvas, dialog)));
  return make("div", {},
    make("div", { class: "slider" }, make("span", {}, "photo"), opacity, make("span", {}, "mask")),
    make("div", { class: "keys" }, ...chips), pageLinks(block.pages), grid, pageLinks(block.pages), dialog);
}

// A canvas with the visible labels of a photo; `draw()` follows what is hidden.
function layerOf(photo, colours, hidden) {
  const canvas = make("canvas", { class: "labels" });
  let labels = null;
  const draw = () => {
    if (!labels) return;
    const pixels = canvas.getContext("2d").createImageData(canvas.width, canvas.height);
    labels.forEach((label, i) => {
      if (hidden.has(label)) return;
      pixels.data.set([...(colours[label] || [224, 224, 192]), 255], 4 * i);
    });
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  };
  const image = new Image();
  image.addEventListener("load", () => {
    [canvas.width, canvas.height] = [image.width, image.height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const data = context.getImageData(0, 0, image.width, image.height).data;
    // Red holds the low byte of a label and green the high one.
    labels = Uint16Array.from({ length: data.length / 4 }, (_, i) => data[4 * i] + 256 * data[4 * i + 1]);
    draw();
  });
  image.src = source(photo.mask);
  return { canvas, draw };
}

function photoCard(photo, canvas, dialog) {
  const thumb = make("img", { src: source(photo.thumb), alt: photo.name });
  const open = () => {
    const large = make("img", { src: photo.original || source(photo.thumb), alt: photo.name,
      error: () => { if (!large.src.startsWith("data:")) large.src = source(photo.thumb); } });
    const links = [["original", photo.original], ["overlay", photo.overlay], ["mask", photo.file]].filter(([, href]) => href)
      .map(([name, href]) => make("a", { href, target: "_blank", rel: "noopener" }, name));
    dialog.replaceChildren(large, make("p", {}, make("b", {}, photo.name), " ", ...links.flatMap((link) => [link, " "])));
    dialog.showModal();
  };
  return make("figure", { class: "photo-card" },
    make("button", { type: "button", class: "stack", title: "show the original", click: open }, thumb, canvas),
    make("figcaption", {}, make("b", {}, photo.name), " ", make("span", { class: "muted" }, photo.note)));
}

function pageLinks(pages) {
  if (pages.length < 2) return null;
  return make("nav", { class: "keys" }, ...pages.map(({ label, href }) =>
    href ? make("a", { href }, label) : make("b", {}, label)));
}
