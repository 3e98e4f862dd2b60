"use strict";

const MOST_CLASSES = 12;

/** A table of all generations; score histogram and classes of those whose labels still exist. */
function drawLabels() {
  const generations = data.generations;
  if (!generations.length) return;
  const section = openSection("labels");
  const compared = generations.filter((generation) => generation.agreement);
  section.append(
    generationTable("Generations of pseudo-labels", COLUMNS, generations),
    qualityNote(generations),
  );
  for (const generation of generations.filter(({ quality }) => quality.masks).slice(-3)) {
    section.append(maskTable(generation), maskNote(generation));
  }
  if (compared.length) {
    section.append(
      generationTable("Compared with the previous generation", AGREEMENT_COLUMNS, compared),
      agreementNote(compared),
    );
  }
  for (const { number, fault } of generations.filter((generation) => generation.fault)) {
    section.append(element("p", { class: "notice" }, `Generation ${number} is damaged: ${fault}`));
  }
  const readable = generations.filter(({ summary }) => summary && summary.num_instances).slice(-3);
  const grid = element("div", { class: "charts" });
  for (const generation of readable) grid.append(scoreHistogram(generation), classBars(generation));
  section.append(grid);
}

/** Columns of the table: heading, and the cell of a generation (null: unknown). */
const COLUMNS = [
  ["status", (g) => g.status],
  ["iteration", (g) => (isKnown(g.step) ? whole(g.step) : null)],
  [
    "gate",
    (g) => (isKnown(g.decision) ? element("span", { class: `gate ${g.decision}` }, g.decision) : null),
  ],
  ["held-out PQ", (g) => (g.held_out && isKnown(g.held_out.PQ) ? fixed(g.held_out.PQ) : null)],
  ["images", (g) => (g.state ? imagesText(g.state) : null)],
  ["objects", (g) => (isKnown(objectCount(g)) ? whole(objectCount(g)) : null)],
  ["objects/image", (g) => instancesPerImage(g)],
  ["empty images", (g) => (g.summary ? whole(g.summary.num_without) : null)],
  ["mean score", (g) => numberOf(g.summary ? g.summary.mean_score : g.statistics["mean score"])],
  ["teacher/refined IoU", (g) => numberOf(g.summary && g.summary.mean_raw_iou)],
  ["teacher\u2019s mask used", (g) => (g.summary ? whole(g.summary.num_raw) : null)],
  ["SQ", (g) => beforeAfter(g.quality, "SQ")],
  ["CA", (g) => beforeAfter(g.quality, "CA")],
];
/** Compared with the previous generation. */
const AGREEMENT_COLUMNS = [
  ["kept", (g) => (g.agreement ? percentOf(g.agreement.kept, g.agreement) : null)],
  ["relabeled", (g) => (g.agreement ? percentOf(g.agreement.relabeled, g.agreement) : null)],
  ["lost", (g) => (g.agreement ? whole(g.agreement.lost) : null)],
  ["gained", (g) => (g.agreement ? whole(g.agreement.gained) : null)],
  ["mean IoU", (g) => numberOf(g.agreement.mean_iou)],
];

function generationTable(caption, columns, generations) {
  const filledIn = columns.filter(([, cell]) => generations.some((generation) => isKnown(cell(generation))));
  const rows = generations.map((generation) => [
    String(generation.number),
    ...filledIn.map(([, cell]) => cell(generation) ?? MISSING),
  ]);
  return table(caption, ["generation", ...filledIn.map(([name]) => name)], rows, "numbers");
}

function qualityNote(generations) {
  const notes = [];
  if (generations.some(({ quality }) => isKnown(quality["SQ after"]))) {
    notes.push(
      "Segmentation quality (SQ): mean IoU of true positives; class accuracy (CA): true positives / predictions; " +
        "in percent, teacher\u2019s masks \u2192 refined masks.",
    );
  }
  if (generations.some(({ held_out }) => held_out)) {
    notes.push(
      "Held-out PQ: panoptic quality in percent of the labels that the same teacher makes for the validation images; the gate compares it.",
    );
  }
  return element("p", { class: "quiet" }, notes.join(" "));
}

/** Figures on the validation images for each kind of masks; those that the labels have are in bold. */
function maskTable({ number, quality }) {
  const rows = Object.entries(quality.masks).map(([kind, figures]) => [
    kind === quality["masks taken"] ? element("strong", {}, `${kind} (taken)`) : kind,
    fixed(figures.PQ),
    differenceText(figures["PQ difference"]),
    ...["SQ", "CA", "recall"].map((name) => fixed(figures[name])),
    whole(figures.instances),
  ]);
  return table(
    `Generation ${number}: masks compared on the validation images`,
    ["masks", "PQ", "PQ against none", "SQ", "CA", "recall", "objects"],
    rows,
    "numbers",
  );
}

function maskNote({ quality }) {
  return element(
    "p",
    { class: "quiet" },
    `Percent; none: the teacher\u2019s own masks, else SAM\u2019s with that prompt. In brackets the 95 % interval ` +
      `of the difference (paired bootstrap over images). Taken: ${quality["masks taken"]}, because: ` +
      `${quality["masks taken because"]}.`,
  );
}

function differenceText(found) {
  if (!found || !isKnown(found[0])) return MISSING;
  const [value, low, high] = found;
  return element("span", {}, difference(value), isKnown(low) ? ` [${fixed(low)}, ${fixed(high)}]` : null);
}

function agreementNote(compared) {
  const images = compared[compared.length - 1].agreement.num_images;
  return element(
    "p",
    { class: "quiet" },
    `On ${whole(images)} images. Kept, relabeled: percentage of the earlier objects that have a match ` +
      "(IoU above 0.5) of the same, of a different class; lost, gained: objects without a match; " +
      "mean IoU: of the matches.",
  );
}

function numberOf(value) {
  return isKnown(value) ? fixed(value, 2) : null;
}

/** Objects of a generation, from the statistics if its labels were removed. */
function objectCount({ summary, statistics }) {
  if (summary) return summary.num_instances;
  const counts = statistics["instances by class"];
  return counts ? Object.values(counts).reduce((sum, count) => sum + count, 0) : null;
}

function imagesText(state) {
  return state.num_stored === state.num_images
    ? whole(state.num_images)
    : `${whole(state.num_stored)} of ${whole(state.num_images)}`;
}

function instancesPerImage(generation) {
  if (generation.summary)
    return fixed(generation.summary.num_instances / Math.max(1, generation.state.num_stored), 2);
  const recorded = generation.statistics["instances per image"];
  return isKnown(recorded) ? fixed(recorded, 2) : null;
}

function beforeAfter(quality, name) {
  const after = quality[`${name} after`];
  return isKnown(after) ? `${fixed(quality[`${name} before`])} \u2192 ${fixed(after)}` : null;
}

/** `count` in percent of the previous generation's instances. */
function percentOf(count, { kept, relabeled, lost }) {
  const all = kept + relabeled + lost;
  return all ? `${((100 * count) / all).toFixed(0)} %` : MISSING;
}

function scoreHistogram({ number, summary }) {
  const counts = summary.score_histogram;
  const first = Math.max(
    0,
    counts.findIndex((count) => count > 0),
  );
  const bars = counts.slice(first).map((count, i) => {
    const low = (first + i) / counts.length;
    return [`${low.toFixed(2)}\u2013${(low + 1 / counts.length).toFixed(2)}`, count];
  });
  return barFigure(`Generation ${number}: class confidence`, bars);
}

function classBars({ number, summary }) {
  const sorted = Object.entries(summary.per_class).sort(([, a], [, b]) => b - a);
  const rest = sorted.slice(MOST_CLASSES);
  const others = rest.reduce((sum, [, count]) => sum + count, 0);
  const bars = sorted.slice(0, MOST_CLASSES);
  if (rest.length) bars.push([`${rest.length} other classes`, others]);
  return barFigure(`Generation ${number}: objects by class`, bars);
}

/** Horizontal bars, as a table that shows every value. */
function barFigure(title, bars) {
  const most = Math.max(1, ...bars.map(([, count]) => count));
  const rows = bars.map(([name, count]) => {
    const fill = element("span", { class: "bar", "aria-hidden": "true" });
    fill.style.setProperty("--share", `${(100 * count) / most}%`);
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      element("td", {}, fill),
      element("td", {}, whole(count)),
    );
  });
  return element(
    "figure",
    { class: "chart" },
    element("figcaption", {}, title),
    element("table", { class: "bars" }, element("tbody", {}, rows)),
  );
}
