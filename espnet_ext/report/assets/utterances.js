"use strict";
// Utterances of a set, those first on which two models differ most; alignments are strings of C, S, D and I.
const SHOWN = 20;
const count = (found) => (found ? found[1].replaceAll("C", "").length : 0);

function aligned(reference, found, unit) {
  const cut = (text) => (unit === "word" ? text.split(" ").filter(Boolean) : [...text.replaceAll(" ", "")]);
  const words = cut(reference);
  if (!found) return [reference];
  const heard = cut(found[0]);
  const gap = unit === "word" ? " " : "";
  return [...found[1]].flatMap((kind) => {
    if (kind === "C") { heard.shift(); return [words.shift(), gap]; }
    if (kind === "D") return [el("del", { title: "left out" }, words.shift()), gap];
    if (kind === "I") return [el("ins", { title: "put in" }, heard.shift()), gap];
    return [el("mark", { title: "said → recognised" }, el("s", {}, words.shift()), " ", heard.shift()), gap];
  });
}

function utterances(body) {
  const sets = data.page.texts;
  if (!sets.length) {
    body.append(el("p", { class: "problem" }, "No utterance to show: score a set with stage 11."));
    return;
  }
  const pair = data.page.start;
  const state = { set: Math.max(0, sets.findIndex((each) => each.set === pair?.set)), order: "difference", text: "", shown: SHOWN };
  const place = el("div", { id: "utterances" });
  const choices = el("p", { class: "tools" });
  const choose = () => {
    const models = Object.keys(sets[state.set].models);
    for (const [side, wish, other] of [["one", pair?.one, 0], ["two", pair?.two, 1]]) {
      if (!models.includes(state[side])) state[side] = models.includes(wish) ? wish : models[Math.min(other, models.length - 1)];
    }
    const set = (name) => (value) => { state[name] = name === "set" ? +value : value; state.shown = SHOWN; if (name === "set") choose(); draw(); };
    const input = el("input", { id: "search", type: "search", placeholder: "word or utterance", value: state.text, oninput: () => set("text")(input.value.toLowerCase()) });
    choices.replaceChildren(
      select("set", "Set", sets.map((each, at) => [String(at), each.set]), String(state.set), set("set")),
      select("one", "System", models, state.one, set("one")),
      select("two", "beside", models, state.two, set("two")),
      select("order", "first", [["difference", "the largest differences"], ["gain", "where the left one is better"], ["loss", "where the right one is better"], ["errors", "most errors of both"], ["name", "by name"]], state.order, set("order")),
      el("label", {}, "with", input),
    );
  };
  const draw = () => {
    const { names, references, speakers, audio, unit, models, set } = sets[state.set];
    const [one, two] = [models[state.one], models[state.two]];
    const rows = names.map((name, at) => ({ name, at, a: count(one[at]), b: count(two[at]) }));
    const has = (row) => [row.name, references[row.at], one[row.at]?.[0], two[row.at]?.[0]].some((text) => text && text.toLowerCase().includes(state.text));
    const keys = { difference: (row) => Math.abs(row.a - row.b), gain: (row) => row.b - row.a, loss: (row) => row.a - row.b, errors: (row) => row.a + row.b, name: () => 0 };
    const found = rows.filter(has).sort((x, y) => keys[state.order](y) - keys[state.order](x) || (x.name < y.name ? -1 : 1));
    const better = (test) => rows.filter(test).length;
    const total = (side) => rows.reduce((sum, row) => sum + row[side], 0);
    const tested = data.comparisons.find((row) => row.set === set && state.one.startsWith(row.system) && state.two.startsWith(row.control) && !state.text);
    const sentence = (label, words) => [el("span", {}, label), el("div", { class: "words", dir: "auto" }, words)];
    place.replaceChildren(
      el("p", { id: "summary" }, `${state.one}: ${total("a")} errors, ${state.two}: ${total("b")}. The left one is better on ${better((row) => row.a < row.b)} utterances, ` +
        `the right one on ${better((row) => row.a > row.b)}, ${better((row) => row.a === row.b)} have as many. ${found.length} are listed.`),
      el("p", { class: "note" }, tested ? "Whether that could be chance: see the verdicts." : "Whether that could be chance was not tested for these two: report --compare SYSTEM CONTROL does it."),
      ...found.slice(0, state.shown).map((row) =>
        el("article", { class: "utterance" },
          el("p", {}, el("b", {}, row.name), speakers ? ` · ${speakers[row.at]}` : "", ` · ${row.a} and ${row.b} errors (${signed(row.a - row.b).replace(".00", "")})`),
          el("div", { class: "sentence" }, sentence("said", references[row.at] || "(nothing)"), sentence(state.one, aligned(references[row.at], one[row.at], unit)), state.two === state.one ? null : sentence(state.two, aligned(references[row.at], two[row.at], unit))),
          audio && audio[row.at] ? el("audio", { controls: "", preload: "none", src: data.page.audio[audio[row.at]] ?? audio[row.at] }) : null,
        ),
      ),
      found.length > state.shown ? el("button", { type: "button", class: "again", onclick: () => { state.shown += 2 * SHOWN; draw(); } }, `${found.length - state.shown} more`) : "",
    );
  };
  body.append(
    el("p", { class: "note words" }, "Marks: ", el("mark", {}, el("s", {}, "said"), " recognised"), " another word, ", el("del", {}, "left out"), ", ", el("ins", {}, "put in"), "."),
    choices, place);
  choose();
  draw();
}
