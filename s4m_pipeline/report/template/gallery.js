"use strict";

const CLASS_COLOURS = [
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
const LAYERS = { before: "teacher", after: "refined", truth: "ground truth" };

/** Photos with two sets of masks, one on either side of a slider. */
function drawGallery() {
  if (!data.gallery) {
    if (data.gallery_reason)
      openSection("gallery").append(element("p", { class: "notice" }, `Not drawn: ${data.gallery_reason}`));
    return;
  }
  const { classes, generations, images, num_images, num_worst, unreadable } = data.gallery;
  const section = openSection("gallery");
  const state = { generation: generations[0], label: "all", left: "before", right: "after" };
  const spread = images.length - num_worst;
  section.append(
    element(
      "p",
      { class: "quiet" },
      `${images.length} of ${whole(num_images)} unlabelled images: ` +
        (spread > 0
          ? `${num_worst} where the masks of teacher and SAM 2 disagree most, ${spread} spread evenly over the others. `
          : "") +
        "Sorted by disagreement (1 \u2212 IoU of the two masks, mean over the objects shown). " +
        "Drag across a photo or move its slider to go from one set of masks to the other." +
        (images.some(({ truth }) => truth)
          ? " Against truth: IoU with the best true object of the same class."
          : ""),
    ),
  );
  if (unreadable.length)
    section.append(element("p", { class: "notice" }, `Not readable: ${unreadable.join(", ")}`));
  const grid = element("div", { class: "gallery" });
  const count = element("p", { class: "quiet", role: "status", id: "gallery-count" });
  const redraw = () => showCards(grid, count, state);
  section.append(controls(state, classes, generations, images, redraw), count, grid);
  redraw();
}

function controls(state, classes, generations, images, redraw) {
  const change = (key) => (value) => {
    state[key] = value;
    redraw();
  };
  const layers = Object.entries(LAYERS).filter(
    ([key]) => key !== "truth" || images.some((image) => image.truth),
  );
  const present = classes
    .map((name, label) => [label, name])
    .filter(([label]) => images.some((image) => hasClass(image, label)));
  return element(
    "div",
    { class: "controls", role: "group", "aria-label": "What the gallery shows" },
    choice("Class", [["all", "all classes"], ...present], "all", change("label")),
    choice(
      "Generation",
      generations.map((number) => [number, String(number)]),
      state.generation,
      change("generation"),
    ),
    layers.length > 2 ? choice("Left", layers, state.left, change("left")) : null,
    layers.length > 2 ? choice("Right", layers, state.right, change("right")) : null,
    present.length <= CLASS_COLOURS.length ? legendOfClasses(present) : null, // beyond, colours repeat
  );
}

function legendOfClasses(present) {
  const entries = present.map(([label, name]) => element("li", {}, classSwatch(label), name));
  return element("ul", { class: "classes", "aria-label": "Colours of the classes" }, entries);
}

function hasClass(image, label) {
  return Object.values(image.labels).some(
    (labels) => labels && labels.instances.some((instance) => instance.label === label),
  );
}

function classSwatch(label) {
  const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
  swatch.style.setProperty("background", CLASS_COLOURS[label % CLASS_COLOURS.length]);
  return swatch;
}

function showCards(grid, count, state) {
  const chosen = data.gallery.images
    .map((image) => ({
      image,
      labels: image.labels[state.generation],
      instances: chosenInstances(image, state),
    }))
    .filter(({ labels, instances }) => labels && (state.label === "all" || instances.length))
    .map((entry) => ({
      ...entry,
      disagreement: mean(entry.instances.map((instance) => 1 - (instance.iou ?? 1))) ?? -1,
    }))
    .sort((a, b) => b.disagreement - a.disagreement);
  grid.replaceChildren(...chosen.map((entry) => card(entry, state)));
  count.textContent = `${chosen.length} image${chosen.length === 1 ? "" : "s"} shown`;
}

function chosenInstances(image, state) {
  const labels = image.labels[state.generation];
  return labels
    ? labels.instances.filter((instance) => state.label === "all" || instance.label === Number(state.label))
    : [];
}

function mean(values) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

function card({ image, labels, instances }, state) {
  return element(
    "figure",
    { class: "card" },
    comparison(image, instances, state),
    element(
      "figcaption",
      {},
      element("p", { class: "file" }, image.name),
      cardFacts(image, labels, instances, state),
      instanceList(instances),
    ),
  );
}

/** The photo under two layers of masks, and the slider that divides them. */
function comparison(image, instances, state) {
  const [left, right] = [
    layer(image, instances, state, state.left),
    layer(image, instances, state, state.right),
  ];
  const divider = element("span", { class: "divider", "aria-hidden": "true" });
  const names = [LAYERS[state.left], LAYERS[state.right]];
  const tags = names.map((name, side) =>
    element("span", { class: `tag ${side ? "right" : "left"}`, "aria-hidden": "true" }, name),
  );
  const photo = element("img", {
    src: image.photo,
    alt: `${image.name} with ${instances.length} pseudo-labelled objects`,
    draggable: "false",
  });
  const stage = element("div", { class: "compare" }, photo, left, right, divider, ...tags);
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

function layer(image, instances, state, kind) {
  const [width, height] = image.frame;
  const svg = svgElement("svg", {
    class: `masks ${kind === state.left ? "left" : "right"}`,
    viewBox: `0 0 ${width} ${height}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  if (state.left === state.right) svg.classList.remove("left", "right");
  const objects =
    kind === "truth"
      ? (image.truth || []).filter(({ label }) => state.label === "all" || label === Number(state.label))
      : instances;
  for (const object of [...objects].reverse()) {
    // the most confident one on top
    const path = svgElement(
      "path",
      { d: kind === "truth" ? object.path : object[kind] },
      svgElement("title", {}, objectText(object)),
    );
    path.style.setProperty("--class", CLASS_COLOURS[object.label % CLASS_COLOURS.length]);
    svg.append(path);
  }
  return svg;
}

function objectText({ label, score, iou }) {
  const parts = [data.gallery.classes[label]];
  if (isKnown(score)) parts.push(`score ${fixed(score, 2)}`);
  if (isKnown(iou)) parts.push(`teacher/refined IoU ${fixed(iou, 2)}`);
  return parts.join(", ");
}

function cardFacts(image, labels, instances, state) {
  const drawn =
    instances.length < labels.count && state.label === "all"
      ? `${instances.length} of ${whole(labels.count)} objects drawn`
      : `${instances.length} object${instances.length === 1 ? "" : "s"}`;
  const ious = mean(instances.map(({ iou }) => iou).filter(isKnown));
  const facts = [element("span", {}, drawn)];
  if (ious !== null) facts.push(element("span", {}, `teacher/refined IoU ${fixed(ious, 2)}`));
  const measured = instances.filter(({ truth }) => truth);
  if (measured.length) {
    const [before, after] = [0, 1].map((side) => mean(measured.map(({ truth }) => truth[side])));
    facts.push(
      element(
        "span",
        {},
        `against truth ${fixed(before, 2)} \u2192 ${fixed(after, 2)} `,
        difference(after - before, 2),
      ),
    );
  }
  return element("p", { class: "facts" }, facts);
}

function instanceList(instances) {
  if (!instances.length) return null;
  const measured = instances.some(({ truth }) => truth);
  const rows = instances.map((instance) => [
    element("span", {}, classSwatch(instance.label), data.gallery.classes[instance.label]),
    fixed(instance.score, 2),
    fixed(instance.expected, 2),
    fixed(instance.iou, 2),
    ...(measured
      ? [instance.truth ? `${fixed(instance.truth[0], 2)} \u2192 ${fixed(instance.truth[1], 2)}` : MISSING]
      : []),
  ]);
  const columns = [
    "class",
    "score",
    "IoU as SAM expects",
    "teacher/refined",
    ...(measured ? ["against truth"] : []),
  ];
  return element(
    "details",
    {},
    element("summary", {}, "Objects"),
    table("Objects", columns, rows, "numbers"),
  );
}
