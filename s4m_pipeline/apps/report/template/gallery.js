"use strict";

const LAYERS = { before: "teacher", after: "refined", truth: "ground truth" };

/** Photos with two sets of masks, divided by a slider. */
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
      `${images.length} of ${whole(num_images)} unlabeled images: ` +
        (spread > 0
          ? `${num_worst} with the largest disagreement of the teacher's and the refined masks, ${spread} spread evenly over the rest. `
          : "") +
        "Sorted by disagreement (1 \u2212 IoU of the two masks, mean over the objects shown). " +
        "Drag across a photo, or move its slider, to compare the two sets of masks." +
        (images.some(({ truth }) => truth)
          ? " IoU with truth: with the best true object of the same class."
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
    present.length <= CLASS_COLORS.length ? legendOfClasses(present) : null, // with more, colors repeat
  );
}

function legendOfClasses(present) {
  const entries = present.map(([label, name]) => element("li", {}, classSwatch(label), name));
  return element("ul", { class: "classes", "aria-label": "Colors of the classes" }, entries);
}

function hasClass(image, label) {
  return Object.values(image.labels).some(
    (labels) => labels && labels.instances.some((instance) => instance.label === label),
  );
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
    comparison(
      image,
      `${image.name} with ${instances.length} pseudo-labeled objects`,
      [LAYERS[state.left], LAYERS[state.right]],
      ["left", "right"].map((side) => layer(image, instances, state, side)),
    ),
    element(
      "figcaption",
      {},
      element("p", { class: "file" }, image.name),
      cardFacts(image, labels, instances, state),
      instanceList(instances),
    ),
  );
}

function layer(image, instances, state, side) {
  const kind = state[side];
  const objects =
    kind === "truth"
      ? (image.truth || []).filter(({ label }) => state.label === "all" || label === Number(state.label))
      : instances;
  const paths = objects.map((object) =>
    maskPath(kind === "truth" ? object.path : object[kind], object.label, objectText(object)),
  );
  return maskLayer(image, state.left === state.right ? "" : side, paths);
}

function objectText({ label, score, iou, use_raw, ignored }) {
  const parts = [data.gallery.classes[label]];
  if (isKnown(score)) parts.push(`score ${fixed(score, 2)}`);
  if (isKnown(iou)) parts.push(`teacher/refined IoU ${fixed(iou, 2)}`);
  if (use_raw) parts.push("the teacher\u2019s mask is used");
  if (ignored) parts.push("ignored: neither mask is likely right");
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
  const refused = instances.filter(({ use_raw }) => use_raw).length;
  if (refused) facts.push(element("span", {}, `${refused} with the teacher\u2019s mask, which is likely better`));
  const ignored = instances.filter((instance) => instance.ignored).length;
  if (ignored) facts.push(element("span", {}, `${ignored} ignored, of which neither mask is likely right`));
  const measured = instances.filter(({ truth }) => truth);
  if (measured.length) {
    const [before, after] = [0, 1].map((side) => mean(measured.map(({ truth }) => truth[side])));
    facts.push(
      element(
        "span",
        {},
        `IoU with truth ${fixed(before, 2)} \u2192 ${fixed(after, 2)} `,
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
    instance.ignored ? "neither: ignored" : instance.use_raw ? "teacher" : "refined",
    ...(measured
      ? [instance.truth ? `${fixed(instance.truth[0], 2)} \u2192 ${fixed(instance.truth[1], 2)}` : MISSING]
      : []),
  ]);
  const columns = [
    "class",
    "score",
    "estimated IoU",
    "teacher/refined IoU",
    "used",
    ...(measured ? ["IoU with truth"] : []),
  ];
  return element(
    "details",
    {},
    element("summary", {}, "Objects"),
    table("Objects", columns, rows, "numbers"),
  );
}
