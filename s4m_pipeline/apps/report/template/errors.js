"use strict";

const KINDS = {
  "false positive": "false",
  duplicate: "false",
  "wrong class": "wrong",
};

/** Confusion, precision by recall, and the images with the most errors. */
function drawErrors() {
  if (!data.errors) return;
  const { split, min_score, num_images, stages, charts, classes, images } = data.errors;
  const section = openSection("errors");
  section.append(
    element(
      "p",
      { class: "quiet" },
      `Of ${whole(num_images)} ${SPLITS[split]}, and predictions as s4m predict finds them: with a score of at ` +
        `least ${min_score}, without near copies. ` +
        "A prediction is of an object if their IoU is above 0.5, whatever its class. " +
        "Background: false positives, and duplicates (further predictions of an object).",
    ),
    element("div", { class: "charts" }, charts.map((chart) => lineChart(chart.title, chart))),
    ...Object.entries(stages).map(([stage, counts]) => confusionTable(stage, counts.confusion, classes)),
  );
  if (images.length) drawErrorCards(section, images, Object.keys(stages), classes);
}

/** Rows: true classes, and background; columns: predicted classes, and missed. */
function confusionTable(stage, counts, classes) {
  const title = `Confusion of the ${stage}: rows are true classes, columns what was predicted`;
  const last = classes.length;
  const rows = counts.map((row, i) => [
    i === last ? "background" : classes[i],
    ...row.map((count, j) => {
      if (i === last && j === last) return MISSING;
      const kind = count === 0 ? "none" : i === j ? "right" : "wrong";
      return element("span", { class: `count ${kind}` }, whole(count));
    }),
  ]);
  return element(
    "details",
    { open: classes.length <= 12 },
    element("summary", {}, `Confusion of the ${stage}`),
    table(title, ["", ...classes, "missed"], rows, "numbers"),
  );
}

function drawErrorCards(section, images, stages, classes) {
  const layers = [...stages, "truth"].map((name) => [name, name === "truth" ? "ground truth" : name]);
  const state = { left: stages[0], right: stages[1] || "truth" };
  const grid = element("div", { class: "gallery" });
  const redraw = () => grid.replaceChildren(...images.map((image) => errorCard(image, stages, state, classes)));
  const change = (side) => (value) => {
    state[side] = value;
    redraw();
  };
  section.append(
    element(
      "p",
      { class: "quiet" },
      `The ${images.length} images with the most errors of the ${stages[0]}. Dashed red: a false positive or a duplicate; ` +
        "dashed yellow: a wrong class; dotted white: a missed object.",
    ),
    element(
      "div",
      { class: "controls", role: "group", "aria-label": "What the images with errors show" },
      choice("Left side", layers, state.left, change("left")),
      choice("Right side", layers, state.right, change("right")),
    ),
    grid,
  );
  redraw();
}

function errorCard(image, stages, state, classes) {
  const facts = stages.map((stage) => element("span", {}, `${stage}: ${errorText(image.stages[stage])}`));
  const titles = ["left", "right"].map((side) => (state[side] === "truth" ? "ground truth" : state[side]));
  const sides = ["left", "right"].map((side) => errorLayer(image, side, state, classes));
  return element(
    "figure",
    { class: "card error" },
    comparison(image, `${image.name}, ${errorText(image.stages[stages[0]])}`, titles, sides),
    element(
      "figcaption",
      {},
      element("p", { class: "file" }, image.name),
      element("p", { class: "facts" }, facts),
    ),
  );
}

function errorText(found) {
  const counts = [["missed", found.missed.length], ...Object.keys(KINDS).map((kind) => [kind, found[kind]])];
  const errors = counts.filter(([, count]) => count).map(([kind, count]) => `${count} ${kind}`);
  return errors.join(", ") || "no errors";
}

function errorLayer(image, side, state, classes) {
  const placed = state.left === state.right ? "" : side;
  const objects = image.truth.map(({ label, path }) => ({ label, path, text: classes[label] }));
  if (state[side] === "truth")
    return maskLayer(image, placed, objects.map(({ label, path, text }) => maskPath(path, label, text)));
  const { predictions, missed } = image.stages[state[side]];
  const found = predictions.map(({ label, path, score, kind }) =>
    maskPath(path, label, `${classes[label]}, score ${fixed(score, 2)}: ${kind}`, KINDS[kind] || null),
  );
  const lost = missed
    .filter((place) => place < objects.length)
    .map((place) => maskPath(objects[place].path, objects[place].label, `missed: ${objects[place].text}`, "missed"));
  return maskLayer(image, placed, [...lost, ...found]);
}
