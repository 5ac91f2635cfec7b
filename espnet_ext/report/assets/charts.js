"use strict";
// Small plots. Lines differ by colour (Okabe and Ito) and by dashes, points by shape, so that nothing hangs on colour.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a6a00", "#56b4e9", "#000000"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];

// One look for each system, the same in all plots.
const looks = new Map(data.systems.map((each, at) => [
  each.name,
  { colour: COLOURS[at % COLOURS.length], dash: DASHES[Math.floor(at / COLOURS.length) % DASHES.length] },
]));

function ticks(low, high, number = 4) {
  const step = 10 ** Math.floor(Math.log10((high - low) / number));
  const size = [1, 2, 5, 10].map((each) => each * step).find((each) => (high - low) / each <= number);
  const found = [];
  for (let at = Math.ceil(low / size); at * size <= high + size * 1e-6; at += 1) found.push(+(at * size).toPrecision(10));
  return found;
}

const short = (value) => {
  const size = Math.abs(value);
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  return size && size < 1e-3 ? value.toExponential(0) : String(+value.toPrecision(4));
};

function range(values, pad = 0.05) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
  return [low - pad * (high - low), high + pad * (high - low)];
}

// Lines: series are {name, system, points: [[x, y]], second}; a second kind of column is drawn thin.
function lineChart(title, note, series, xTitle = "optimiser steps") {
  const points = series.flatMap((each) => each.points);
  const [width, height, left, right, top, bottom] = [340, 210, 48, 8, 8, 34];
  const [x0, x1] = range(points.map((each) => each[0]), 0);
  const [y0, y1] = range(points.map((each) => each[1]));
  const x = (value) => left + ((value - x0) / (x1 - x0)) * (width - left - right);
  const y = (value) => height - bottom - ((value - y0) / (y1 - y0)) * (height - top - bottom);
  const axes = [
    ticks(y0, y1).map((at) => [
      svg("line", { class: "axis", x1: left, x2: width - right, y1: y(at), y2: y(at) }),
      svg("text", { x: left - 5, y: y(at) + 4, "text-anchor": "end" }, short(at)),
    ]),
    ticks(x0, x1).map((at) => svg("text", { x: x(at), y: height - bottom + 14, "text-anchor": "middle" }, short(at))),
    svg("text", { x: (left + width) / 2, y: height - 3, "text-anchor": "middle" }, xTitle),
  ];
  const lines = series.map((each) => {
    const look = looks.get(each.system);
    const style = { fill: "none", stroke: look.colour, "stroke-dasharray": look.dash };
    const path = each.points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ");
    return svg(
      "g",
      {},
      svg("title", {}, each.name),
      svg("polyline", { ...style, points: path, "stroke-width": each.second ? 1 : 2, opacity: each.second ? 0.55 : 1 }),
      each.points.length === 1 ? svg("circle", { cx: x(each.points[0][0]), cy: y(each.points[0][1]), r: 3, fill: look.colour }) : null,
    );
  });
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title }, axes, lines);
  return el("figure", {}, el("figcaption", {}, title, note ? [" ", el("small", {}, note)] : null), picture);
}

// Values with intervals, one a row: rows are {name, value, low, high, system}; zero draws a line there.
function intervalChart(title, note, rows, zero) {
  const [width, line, bottom, name, right] = [340, 34, 30, 6, 12];
  const height = rows.length * line + bottom;
  const ends = rows.flatMap((each) => [each.low ?? each.value, each.high ?? each.value]);
  const [x0, x1] = range(zero ? [0, ...ends] : ends);
  const x = (value) => 12 + ((value - x0) / (x1 - x0)) * (width - 12 - right);
  const grid = ticks(x0, x1).map((at) => [
    svg("line", { class: zero && at === 0 ? "zero" : "axis", x1: x(at), x2: x(at), y1: 0, y2: height - bottom + 4 }),
    svg("text", { x: x(at), y: height - bottom + 17, "text-anchor": "middle" }, short(at)),
  ]);
  const marks = rows.map((each, at) => {
    const colour = (looks.get(each.system) || looks.values().next().value).colour;
    const y = at * line + 24;
    const tip = each.low === null ? fixed(each.value) : `${fixed(each.value)} [${fixed(each.low)}, ${fixed(each.high)}]`;
    return svg(
      "g",
      {},
      svg("title", {}, `${each.name}: ${tip}`),
      svg("text", { class: "name", x: name, y: y - 8 }, each.name.length > 46 ? `${each.name.slice(0, 45)}…` : each.name),
      each.low === null ? null : svg("line", { x1: x(each.low), x2: x(each.high), y1: y, y2: y, stroke: colour, "stroke-width": 3 }),
      svg("circle", { cx: x(each.value), cy: y, r: 5, fill: colour, stroke: "#fff" }),
    );
  });
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title }, grid, marks);
  return el("figure", {}, el("figcaption", {}, title, note ? [" ", el("small", {}, note)] : null), picture);
}

function legend(systems) {
  const entry = (name) => {
    const look = looks.get(name);
    const line = svg("line", { x1: 0, x2: 34, y1: 6, y2: 6, stroke: look.colour, "stroke-width": 3, "stroke-dasharray": look.dash });
    return el("li", {}, svg("svg", { viewBox: "0 0 34 12", "aria-hidden": "true" }, line), name);
  };
  return el("ul", { class: "legend" }, systems.map(entry));
}
