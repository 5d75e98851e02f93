// Builds the page from the values in it: sections of blocks, as `blocks.py` makes them.

const BLOCKS = {
  cards: (block) => make("div", { class: "cards" }, ...block.items.map((card) => make("div", { class: "card" },
    make("div", { class: "name" }, card.name), make("div", { class: "value" }, card.value), make("div", { class: "muted" }, card.note)))),
  table: (block) => make("div", {}, heading(block.title), make("div", { class: "scroll" }, tableOf(block)), note(block.note)),
  heading: (block) => heading(block.text),
  text: (block) => make("p", {}, block.text),
  facts: (block) => {
    const rows = block.rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
    const list = make("dl", { class: "facts" }, ...rows);
    if (!block.title) return list;
    return make("details", { open: block.open ? "" : null }, make("summary", {}, block.title), list);
  },
  chart,
  charts: (block) => make("div", { class: "charts" }, ...block.charts.map(chart)),
  classes: classesBlock,
  grouped: groupedBlock,
  pictures: picturesBlock,
  photos: photosBlock,
};

function heading(title) {
  return title ? make("h3", {}, title) : null;
}

function note(words) {
  return words ? make("p", { class: "note" }, words) : null;
}

function tableOf(block) {
  const cell = (text, j) => make(j ? "td" : "th", { class: text.length > 60 ? "long" : null }, text);
  return make("table", {},
    make("thead", {}, make("tr", {}, ...block.head.map((name) => make("th", {}, name)))),
    make("tbody", {}, ...block.rows.map((row) => make("tr", {}, ...row.map(cell)))));
}

// The reader's choice of light or dark, kept where the browser allows it, or else the system's.
function themeButton() {
  const root = document.documentElement;
  const remembered = (action) => { try { return action(window.localStorage); } catch { return null; } };
  const system = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const choose = (theme) => {
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "light" : "dark";
  };
  const button = make("button", { type: "button", class: "theme", title: "light or dark", click: () => {
    choose(root.dataset.theme === "dark" ? "light" : "dark");
    remembered((storage) => storage.setItem("toco-theme", root.dataset.theme));
  } });
  const kept = remembered((storage) => storage.getItem("toco-theme"));
  choose(kept === "dark" || kept === "light" ? kept : system);
  return button;
}

function build() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const sections = data.sections.filter((section) => section.blocks.length).map((section) => make("section", {},
    make("h2", {}, section.title), ...section.blocks.map((block) => BLOCKS[block.type](block))));
  document.getElementById("page").replaceChildren(
    make("header", { class: "top" }, make("div", {}, make("h1", {}, data.title), make("p", { class: "muted" }, data.about)), themeButton()),
    ...data.remarks.map((words) => make("p", { class: "remark" }, words)),
    ...sections);
}

build();
