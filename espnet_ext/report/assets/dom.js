"use strict";
// Elements. Text from transcripts and file names only ever becomes text nodes, never markup.
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((each) => each !== null && each !== undefined));
  return node;
}

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

const fixed = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const signed = (value) => {
  const text = fixed(Math.abs(value));
  return text === "0.00" ? text : (value < 0 ? "−" : "+") + text;
};
const whole = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));
const span = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  const minutes = Math.floor(seconds / 60);
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  return minutes ? `${minutes} min ${String(Math.round(seconds % 60)).padStart(2, "0")} s` : `${Math.round(seconds)} s`;
};

// Names of experiments have no spaces; a line may end behind their underscores.
const breakable = (text) => String(text).split(/(?<=_)/).flatMap((part) => [el("wbr", {}), part]).slice(1);

// A section of the page, with its entry in the list at the top; build(body) fills it.
function section(id, title, build) {
  const body = el("div", {});
  document.querySelector("main").append(el("section", { id }, el("h2", {}, title), body));
  document.querySelector("nav").append(el("a", { href: `#${id}` }, title));
  build(body);
}

function select(id, label, values, chosen, change) {
  const options = values.map((value) => {
    const [key, text] = Array.isArray(value) ? value : [value, value];
    const option = el("option", { value: key }, text);
    option.selected = key === chosen;
    return option;
  });
  const node = el("select", { id, onchange: () => change(node.value) }, options);
  return el("label", {}, label, node);
}

// What the filter at the top lets through; listeners draw again when it changes.
const filter = {
  text: "",
  listeners: [],
  passes(name) {
    return name.toLowerCase().includes(this.text);
  },
  set(text) {
    this.text = text.trim().toLowerCase();
    this.listeners.forEach((each) => each());
  },
};

// The part of a section that depends on the filter.
function filtered(parent, draw) {
  const place = el("div", {});
  parent.append(place);
  const again = () => place.replaceChildren(...[draw()].flat(Infinity));
  filter.listeners.push(again);
  again();
}
