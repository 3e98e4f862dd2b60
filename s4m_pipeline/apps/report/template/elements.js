"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const MISSING = "\u2013";

/** An HTML element; children may be elements, texts, or null. Texts never become markup. */
function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svgElement(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function isKnown(value) {
  return value !== null && value !== undefined;
}

function fixed(value, digits = 1) {
  return isKnown(value) ? value.toFixed(digits) : MISSING;
}

function whole(value) {
  return isKnown(value) ? value.toLocaleString("en") : MISSING;
}

/** A signed difference, colored as a gain or a loss. */
function difference(value, digits = 1) {
  if (!isKnown(value)) return element("span", {}, MISSING);
  const rounded = Number(value.toFixed(digits));
  const kind = rounded > 0 ? "gain" : rounded < 0 ? "loss" : "same";
  const sign = rounded > 0 ? "+" : rounded < 0 ? "\u2212" : "\u00b1";
  return element("span", { class: `difference ${kind}` }, sign + Math.abs(rounded).toFixed(digits));
}

/** Show a section and add its heading; the navigation lists all sections that are shown. */
function openSection(id) {
  const section = document.getElementById(id);
  section.hidden = false;
  const heading = element("h2", { id: `${id}-title` }, section.dataset.title);
  section.setAttribute("aria-labelledby", heading.id);
  section.append(heading);
  return section;
}

/** A table in a horizontally scrolling box; the first cell of each row is its heading. */
function table(caption, columns, rows, kind = "") {
  const head = columns.map((column) => element("th", { scope: "col" }, column));
  const body = rows.map(([first, ...cells]) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, first),
      cells.map((cell) => element("td", {}, cell)),
    ),
  );
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element(
      "table",
      { class: kind },
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, head)),
      element("tbody", {}, body),
    ),
  );
}

/** A labeled <select>; `options` are pairs of value and text. */
function choice(label, options, selected, onchange) {
  const select = element(
    "select",
    { onchange: () => onchange(select.value) },
    options.map(([value, text]) =>
      element("option", { value, selected: String(value) === String(selected) }, text),
    ),
  );
  return element("label", { class: "choice" }, element("span", {}, label), select);
}
