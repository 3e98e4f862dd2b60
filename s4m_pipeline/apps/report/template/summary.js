"use strict";

const COMMANDS = {
  teacher: "s4m pretrain-teacher CONFIG",
  labels: "s4m refine CONFIG",
  student: "s4m train-student CONFIG",
};

/** The answers to what is asked first, and the three stages side by side, with their key figures. */
function drawSummary() {
  const { teacher, labels, student } = data.stages;
  const { failures, next } = data.answers;
  document
    .getElementById("summary")
    .append(
      answer("Is the student better?", verdict()),
      answer("Where does it fail?", linesOf(failures)),
      answer("What next?", linesOf(next)),
      element(
        "ol",
        { class: "stages" },
        stageCard("Teacher", "teacher", teacher, teacher && trainingFigures(teacher)),
        stageCard("Pseudo-labels", "labels", labels, labels && labelFigures(labels)),
        stageCard("Student", "student", student, student && trainingFigures(student, teacher)),
      ),
    );
}

function answer(question, content) {
  return element("div", { class: "answer" }, element("h2", {}, question), content);
}

function verdict() {
  if (data.verdict.length) return element("pre", { class: "verdict", id: "verdict" }, data.verdict.join("\n"));
  return linesOf(["Not known: teacher and student are not both evaluated yet."]);
}

function linesOf(lines) {
  return element(
    "ul",
    {},
    lines.map((line) => element("li", {}, line)),
  );
}

function stageCard(title, key, stage, figures) {
  const status = stage ? stage.status : "not started";
  const head = element(
    "div",
    { class: "stage-head" },
    element("h2", {}, title),
    element("span", { class: `status ${status.replaceAll(" ", "-")}` }, status),
  );
  const missing = element("p", { class: "quiet" }, "Run ", element("code", {}, COMMANDS[key]));
  return element("li", { class: stage ? "stage" : "stage absent" }, head, figures || missing);
}

function trainingFigures(stage, before = null) {
  const gain = before && isKnown(before.AP) && isKnown(stage.AP) ? stage.AP - before.AP : null;
  const facts = [isKnown(stage.iterations) ? `${whole(stage.iterations)} iterations` : null, stage.duration];
  return [
    element(
      "p",
      { class: "figure" },
      element("strong", {}, fixed(stage.AP)),
      element("span", {}, " validation AP "),
      gain === null ? null : element("span", { class: "nowrap" }, difference(gain), " over the teacher"),
    ),
    element("p", { class: "quiet" }, facts.filter(isKnown).join(", ")),
  ];
}

function labelFigures(labels) {
  const quality = labels.quality;
  const pairs = ["SQ", "CA"].filter((name) => isKnown(quality[`${name} after`]));
  const figures = pairs.map((name) =>
    element(
      "span",
      { class: "pair" },
      `${name} `,
      element("span", { class: "from" }, fixed(quality[`${name} before`])),
      " \u2192 ",
      element("strong", {}, fixed(quality[`${name} after`])),
    ),
  );
  const counts = `${whole(labels.instances)} objects in ${whole(labels.images)} images, generation ${labels.number}`;
  return [
    element(
      "p",
      { class: "figure" },
      figures.length ? figures : [element("strong", {}, whole(labels.instances)), " objects"],
    ),
    element("p", { class: "quiet" }, counts + (pairs.length ? "; teacher\u2019s masks \u2192 refined masks" : "")),
  ];
}

const MEASURES = {
  AP: "AP",
  AP50: "AP50",
  AP75: "AP75",
  AP_small: "small",
  AP_medium: "medium",
  AP_large: "large",
  merged_rate: "merged, %",
};
const SPLITS = { val: "validation images", test: "test images" };

/** AP of every evaluated checkpoint, overall and per class, for each split. */
function drawEvaluation() {
  const splits = Object.entries(data.evaluation);
  if (!splits.length) return;
  const section = openSection("evaluation");
  section.append(
    element(
      "p",
      { class: "quiet" },
      "COCO mask AP in percent. Small: below 32 \u00d7 32 pixels; large: from 96 \u00d7 96. " +
        "Merged: predictions with a score of 0.5 or more that cover several objects of their class.",
    ),
  );
  const tables = splits.map(([split, found]) =>
    element("div", {}, splitTables(SPLITS[split] || split, found)),
  );
  section.append(element("div", { class: "splits" }, tables));
}

function splitTables(title, found) {
  const names = Object.keys(found);
  const measures = Object.keys(MEASURES).filter((key) => names.some((name) => isKnown(found[name][key])));
  const rows = names.map((name) => [name, ...measures.map((key) => fixed(found[name][key]))]);
  if (found.teacher && found.student) {
    rows.push([
      "student \u2212 teacher",
      ...measures.map((key) => gainCell(found.teacher[key], found.student[key], key === "merged_rate")),
    ]);
  }
  const images = found[names[0]].images;
  const caption = title[0].toUpperCase() + title.slice(1) + (isKnown(images) ? ` (${whole(images)})` : "");
  const parts = [table(caption, ["", ...measures.map((key) => MEASURES[key])], rows, "numbers")];
  const classes = [...new Set(names.flatMap((name) => Object.keys(found[name].per_class)))];
  if (classes.length) parts.push(classTable(title, names, classes, found));
  return parts;
}

/** A difference; more is better, unless `lessIsBetter` (merged objects). */
function gainCell(before, after, lessIsBetter = false) {
  if (!isKnown(before) || !isKnown(after)) return MISSING;
  const cell = difference(after - before);
  if (lessIsBetter && cell.classList.contains("gain")) cell.classList.replace("gain", "loss");
  else if (lessIsBetter) cell.classList.replace("loss", "gain");
  return cell;
}

function classTable(title, names, classes, found) {
  const both = found.teacher && found.student;
  const rows = classes.map((label) => {
    const values = names.map((name) => found[name].per_class[label]);
    const gain = both ? [gainCell(found.teacher.per_class[label], found.student.per_class[label])] : [];
    return [label, ...values.map(bar), ...gain];
  });
  const columns = ["class", ...names, ...(both ? ["student \u2212 teacher"] : [])];
  return element(
    "details",
    { open: classes.length <= 12 },
    element("summary", {}, `AP by class, ${title}`),
    table(`AP by class, ${title}`, columns, rows, "numbers"),
  );
}

/** A percentage as a number with a bar. */
function bar(value) {
  const fill = element("span", { class: "bar", "aria-hidden": "true" });
  fill.style.setProperty("--share", `${Math.max(0, Math.min(100, value || 0))}%`);
  return element("span", { class: "barred" }, fixed(value), fill);
}

function drawPictures() {
  if (!data.pictures.length) return;
  const section = openSection("pictures");
  for (const { title, name, source, width, height } of data.pictures) {
    section.append(
      element(
        "figure",
        {},
        element(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
          element("img", { src: source, alt: title, width, height }),
        ),
        element("figcaption", {}, `${title} (${name})`),
      ),
    );
  }
}

/** The trainings side by side, what the labels depend on, and all settings. */
function drawProvenance() {
  const section = openSection("provenance");
  const { columns, rows } = data.provenance;
  if (rows.length) {
    const cells = rows.map(([label, ...values]) => [label, ...values.map((value) => value ?? MISSING)]);
    section.append(table("Trainings", ["", ...columns], cells, "facts"));
  }
  const made = data.generations.filter((generation) => generation.summary);
  if (made.length) section.append(originTable(made));
  for (const [stage, settings] of Object.entries(data.configs)) {
    section.append(
      element(
        "details",
        {},
        element("summary", {}, `All settings of the ${stage} training`),
        element("pre", { tabindex: "0" }, JSON.stringify(settings, null, 2)),
      ),
    );
  }
}

/** What each generation's labels depend on, and the time they took. */
function originTable(made) {
  const facts = made.map(({ state, summary, statistics }) => ({
    published: state.published_at ? state.published_at.replace("T", " ").replace("+00:00", " UTC") : null,
    classes: Object.keys(summary.per_class).join(", "),
    "size on disk": `${(state.size_bytes / 1e6).toFixed(1)} MB in ${whole(state.num_parts)} parts`,
    ...summary.fingerprint,
    ...Object.fromEntries(Object.entries(statistics).filter(([, value]) => typeof value !== "object")),
  }));
  const keys = [...new Set(facts.flatMap(Object.keys))];
  const rows = keys.map((key) => [key, ...facts.map((fact) => String(fact[key] ?? MISSING))]);
  return table("Pseudo-labels", ["", ...made.map(({ number }) => `generation ${number}`)], rows, "facts");
}

/** Sizes and counts of each part of the data. */
function drawDataset() {
  if (!data.dataset) return;
  const { parts, classes } = data.dataset;
  const names = Object.keys(parts);
  const section = openSection("dataset");
  const columns = ["", "images", "median size", "objects", "small", "medium", "large", "most per image", "images without"];
  const rows = names.map((name) => {
    const part = parts[name];
    const size = part["median size"];
    const sizes = part.sizes || [null, null, null];
    return [
      name,
      whole(part.images),
      size ? `${size[0]} \u00d7 ${size[1]}` : MISSING,
      whole(part.objects),
      ...sizes.map(whole),
      whole(part.most),
      whole(part.empty),
    ];
  });
  section.append(
    table("Images and objects", columns, rows, "numbers"),
    element("p", { class: "quiet" }, "Small: below 32 \u00d7 32 pixels; large: from 96 \u00d7 96."),
  );
  const counted = names.filter((name) => parts[name]["per class"]);
  const perClass = classes.map((label) => [label, ...counted.map((name) => whole(parts[name]["per class"][label]))]);
  section.append(
    element(
      "details",
      { open: classes.length <= 12 },
      element("summary", {}, "Objects by class"),
      table("Objects by class", ["class", ...counted], perClass, "numbers"),
    ),
  );
}
