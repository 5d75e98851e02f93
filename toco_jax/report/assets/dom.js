// Elements. What users wrote enters a page as text or as the source of a picture, never as HTML.

const SVG_TAGS = new Set(["svg", "g", "path", "line", "circle", "rect", "text"]);

// Makes an element. Functions among the attributes listen to the event of their name, `style` is an
// object, and null leaves an attribute out.
function make(tag, attributes, ...children) {
  const element = SVG_TAGS.has(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "style") {
      for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    } else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A button that is on or off; `change(isOn)` is called after each click.
function toggle(isOn, change, ...children) {
  const button = make("button", { type: "button", class: "toggle", "aria-pressed": isOn }, ...children);
  button.addEventListener("click", () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", now);
    change(now);
  });
  return button;
}

// The source of a picture from the base64 of a JPEG or a PNG.
function source(base64) {
  return `data:image/${base64.startsWith("/9j/") ? "jpeg" : "png"};base64,${base64}`;
}

// Calls `draw(width)` now that an element is on the page, and whenever its width changes.
function onWidth(element, draw) {
  let known = 0;
  new ResizeObserver(() => {
    const width = Math.floor(element.clientWidth);
    if (width && width !== known) {
      known = width;
      draw(width);
    }
  }).observe(element);
}

// A number with as many digits as mean something.
function shown(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace(/\.?0*e\+?/, "e");
  return String(Number(value.toPrecision(size >= 100 ? 5 : 3)));
}
