"use strict";

const CHART_HEIGHT = 250;
const MARGIN = { top: 12, right: 14, bottom: 34, left: 46 };

/** Losses and validation AP of each training that has begun. */
function drawTrainings() {
  const trainings = data.trainings.filter((training) => training.charts.length);
  if (!trainings.length) return;
  const section = openSection("trainings");
  section.append(
    element(
      "p",
      { class: "quiet" },
      "Move the pointer over a chart, or focus it and use the arrow keys, to read its values. ",
      "The buttons below a chart show and hide its lines.",
    ),
  );
  const grid = element("div", { class: "charts" });
  section.append(grid);
  for (const { stage, charts, events } of trainings) {
    for (const chart of charts) grid.append(lineChart(`${stage[0].toUpperCase() + stage.slice(1)}: ${chart.title}`, chart, events));
  }
}

/** A figure with an SVG that is redrawn whenever its width changes. */
function lineChart(title, chart, events = []) {
  const state = {
    shown: new Set(chart.series.map((_, i) => i).filter((i) => i === 0 || chart.series.length <= 4)),
    at: null,
  };
  const box = element("div", { class: "plot" });
  const reading = element("p", { class: "reading", role: "status" });
  const redraw = () => box.clientWidth && box.replaceChildren(plot(box.clientWidth));

  function plot(width) {
    const lines = chart.series
      .map((line, i) => ({ ...line, color: `var(--line-${i % 8})`, i }))
      .filter((line) => state.shown.has(line.i));
    const scale = scales(lines, width);
    const svg = svgElement("svg", {
      width,
      height: CHART_HEIGHT,
      viewBox: `0 0 ${width} ${CHART_HEIGHT}`,
      tabindex: "0",
      role: "img",
      "aria-label": `${title}. ${lines.map((line) => describe(line, chart.x)).join(". ")}`,
      onpointermove: (event) =>
        readAt(nearest(lines, scale.stepAt(event.clientX - svg.getBoundingClientRect().left))),
      onpointerleave: () => readAt(null),
      onkeydown: (event) => moveReading(event, lines),
    });
    svg.append(axes(scale, width, chart.x), marks(events, scale));
    for (const line of lines) svg.append(curve(line, scale));
    const cursor = svgElement("g", { class: "cursor" });
    svg.append(cursor);

    function readAt(step) {
      state.at = step;
      cursor.replaceChildren();
      reading.textContent = "";
      if (step === null) return;
      const x = scale.x(step);
      cursor.append(svgElement("line", { x1: x, x2: x, y1: MARGIN.top, y2: CHART_HEIGHT - MARGIN.bottom }));
      const texts = [];
      for (const line of lines) {
        const point = line.points.find(([at]) => at === step);
        if (!point) continue;
        const dot = svgElement("circle", { cx: x, cy: scale.y(point[1]), r: 4 });
        dot.style.fill = line.color;
        cursor.append(dot);
        texts.push(`${line.name} ${valueText(point[1], chart.unit)}`);
      }
      reading.textContent = `${chart.x[0].toUpperCase() + chart.x.slice(1)} ${whole(step)}: ${texts.join(", ")}`;
    }
    svg.readAt = readAt;
    return svg;
  }

  function moveReading(event, lines) {
    const steps = allSteps(lines);
    const place = state.at === null ? -1 : steps.indexOf(state.at);
    const target = {
      ArrowRight: place + 1,
      ArrowLeft: place < 0 ? steps.length - 1 : place - 1,
      Home: 0,
      End: steps.length - 1,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    event.currentTarget.readAt(steps[Math.max(0, Math.min(steps.length - 1, target))]);
  }

  const legend = element(
    "div",
    { class: "legend", role: "group", "aria-label": `Lines of ${title}` },
    chart.series.map((line, i) => legendEntry(line, i, state, redraw)),
  );
  new ResizeObserver(redraw).observe(box);
  return element(
    "figure",
    { class: "chart" },
    element("figcaption", {}, title, chart.unit ? `, ${chart.unit}` : ""),
    box,
    reading,
    legend,
    eventNote(events),
  );
}

function eventNote(events) {
  if (!events.length) return null;
  const texts = events.slice(0, 8).map(({ step, text }) => `${text} at iteration ${whole(step)}`);
  if (events.length > 8) texts.push(`${events.length - 8} more`);
  return element("p", { class: "quiet" }, `Dashed lines: new labels (${texts.join(", ")})`);
}

function legendEntry(line, i, state, redraw) {
  const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
  swatch.style.setProperty("background", `var(--line-${i % 8})`);
  const button = element(
    "button",
    {
      type: "button",
      "aria-pressed": String(state.shown.has(i)),
      onclick: () => {
        if (!state.shown.delete(i)) state.shown.add(i);
        button.setAttribute("aria-pressed", String(state.shown.has(i)));
        redraw();
      },
    },
    swatch,
    line.name,
  );
  return button;
}

function scales(lines, width) {
  const points = lines.flatMap((line) => line.points);
  const lastStep = Math.max(1, ...points.map(([step]) => step));
  const values = points.map(([, value]) => value);
  const ticks = niceTicks(Math.min(0, ...values), Math.max(...values, 0), 5);
  const [low, high] = [ticks[0], ticks[ticks.length - 1]];
  const inner = {
    width: width - MARGIN.left - MARGIN.right,
    height: CHART_HEIGHT - MARGIN.top - MARGIN.bottom,
  };
  return {
    ticks,
    stepTicks: niceTicks(0, lastStep, Math.max(2, Math.floor(width / 110))).filter(
      (step) => step <= lastStep && Number.isInteger(step),
    ),
    x: (step) => MARGIN.left + (step / lastStep) * inner.width,
    y: (value) => MARGIN.top + (1 - (value - low) / (high - low)) * inner.height,
    stepAt: (x) => ((x - MARGIN.left) / inner.width) * lastStep,
  };
}

/** About `count` round numbers from below `low` to above `high`. */
function niceTicks(low, high, count) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => span / size <= count);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: Math.max(1, last - first) + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(12)),
  );
}

function axes(scale, width, name) {
  const group = svgElement("g", { class: "axes" });
  for (const value of scale.ticks) {
    const y = scale.y(value);
    group.append(
      svgElement("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }),
      svgElement("text", { x: MARGIN.left - 8, y: y + 4, "text-anchor": "end" }, String(value)),
    );
  }
  for (const step of scale.stepTicks) {
    group.append(
      svgElement(
        "text",
        { x: scale.x(step), y: CHART_HEIGHT - MARGIN.bottom + 18, "text-anchor": "middle" },
        whole(step),
      ),
    );
  }
  group.append(
    svgElement(
      "text",
      { class: "unit", x: width - MARGIN.right, y: CHART_HEIGHT - 2, "text-anchor": "end" },
      name,
    ),
  );
  return group;
}

/** Dashed lines where new labels were made. */
function marks(events, scale) {
  return svgElement(
    "g",
    { class: "marks" },
    events.map(({ step, text }) => {
      const x = scale.x(step);
      return svgElement(
        "line",
        { x1: x, x2: x, y1: MARGIN.top, y2: CHART_HEIGHT - MARGIN.bottom },
        svgElement("title", {}, `Iteration ${whole(step)}: ${text}`),
      );
    }),
  );
}

function curve(line, scale) {
  const places = line.points.map(
    ([step, value]) => `${scale.x(step).toFixed(1)} ${scale.y(value).toFixed(1)}`,
  );
  const group = svgElement("g", { class: "curve" });
  const path = svgElement("path", { d: `M${places.join("L")}` });
  path.style.stroke = line.color;
  group.append(path);
  if (line.points.length <= 30) {
    for (const [step, value] of line.points) {
      const dot = svgElement("circle", { cx: scale.x(step), cy: scale.y(value), r: 2.5 });
      dot.style.fill = line.color;
      group.append(dot);
    }
  }
  return group;
}

function allSteps(lines) {
  return [...new Set(lines.flatMap((line) => line.points.map(([step]) => step)))].sort((a, b) => a - b);
}

function nearest(lines, step) {
  const steps = allSteps(lines);
  return steps.length
    ? steps.reduce((best, at) => (Math.abs(at - step) < Math.abs(best - step) ? at : best))
    : null;
}

function describe(line, name) {
  const [first, last] = [line.points[0], line.points[line.points.length - 1]];
  const places = [first, last].map(([step, value]) => `${valueText(value, "")} at ${name} ${step}`);
  return `${line.name} from ${places.join(" to ")}`;
}

function valueText(value, unit) {
  return (
    (Math.abs(value) >= 10 ? value.toFixed(1) : String(Number(value.toPrecision(3)))) +
    (unit ? ` ${unit}` : "")
  );
}
