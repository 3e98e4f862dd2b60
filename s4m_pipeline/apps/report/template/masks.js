"use strict";

const CLASS_COLORS = [
  "#ff6b5e",
  "#4db4ff",
  "#3ddc84",
  "#ffc53d",
  "#cf8dff",
  "#2ee6d6",
  "#ff8fd0",
  "#d4e157",
  "#ffa14a",
  "#b9c6ff",
];

function classSwatch(label) {
  const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
  swatch.style.setProperty("background", CLASS_COLORS[label % CLASS_COLORS.length]);
  return swatch;
}

/** The photo with two layers of masks, and the slider that divides them. */
function comparison(image, alt, names, layers) {
  const divider = element("span", { class: "divider", "aria-hidden": "true" });
  const tags = names.map((name, side) =>
    element("span", { class: `tag ${side ? "right" : "left"}`, "aria-hidden": "true" }, name),
  );
  const photo = element("img", {
    src: image.photo,
    alt,
    draggable: "false",
  });
  const stage = element("div", { class: "compare" }, photo, ...layers, divider, ...tags);
  stage.style.setProperty("aspect-ratio", `${image.width} / ${image.height}`);
  const slider = element("input", {
    type: "range",
    min: "0",
    max: "100",
    value: "50",
    "aria-label": `${names[0]} (left) against ${names[1]} (right): ${image.name}`,
  });
  const show = () => {
    stage.style.setProperty("--at", `${slider.value}%`);
    slider.setAttribute(
      "aria-valuetext",
      `${slider.value} % ${names[0]}, ${100 - slider.value} % ${names[1]}`,
    );
  };
  const follow = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = stage.getBoundingClientRect();
    slider.value = String(Math.round((100 * (event.clientX - box.left)) / box.width));
    show();
  };
  stage.addEventListener("pointerdown", follow);
  stage.addEventListener("pointermove", follow);
  slider.addEventListener("input", show);
  show();
  return element("div", {}, stage, slider);
}

/** Outlines over a photo, `left` or `right` of the divider, the first one on top; side "": over all of it. */
function maskLayer(image, side, paths) {
  const [width, height] = image.frame;
  return svgElement(
    "svg",
    {
      class: `masks ${side}`,
      viewBox: `0 0 ${width} ${height}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    },
    [...paths].reverse(),
  );
}

function maskPath(outline, label, text, kind = null) {
  const path = svgElement("path", { d: outline, class: kind }, svgElement("title", {}, text));
  path.style.setProperty("--class", CLASS_COLORS[label % CLASS_COLORS.length]);
  return path;
}
