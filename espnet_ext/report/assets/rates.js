"use strict";
// Verdicts, and the tables and plots of error rates.
const NAMES = { wer: "word error rate", cer: "character error rate" };
const interval = (row) => (row.low === null ? "" : `[${fixed(row.low)}, ${fixed(row.high)}]`);

function verdictCell(row) {
  const kind = !row.shown ? "none" : row.difference.value < 0 ? "fewer" : "more";
  const notes = [...row.caveats];
  const tests = row.mapsswe.map((each) => `${each.seed ? `seed ${each.seed}: ` : ""}z = ${fixed(each.z)}, p = ${each.p.toPrecision(2)}`);
  if (tests.length) notes.push(`matched pairs (MAPSSWE), blind to training: ${tests.join("; ")}`);
  const item = (note) => el("li", { class: note.startsWith("NOT MATCHED") ? "caution" : null }, note);
  const head = row.verdict.split(/(?= \()|(?<=;)/)[0];
  return [el("span", { class: kind }, head), row.verdict.slice(head.length), notes.length ? el("ul", {}, notes.map(item)) : null];
}

function verdicts(body) {
  body.append(
    el("p", {}, "Each system against its control, on sets that nothing was chosen on. " +
      "Negative: the system makes fewer errors. One paired bootstrap of speakers and their utterances, crossed with seeds; " +
      "verdicts are corrected for all comparisons of this page (Holm), intervals are not."),
  );
  filtered(body, () => {
    const rows = data.comparisons.filter((row) => filter.passes(row.system) || filter.passes(row.control));
    const open = data.not_compared.filter((row) => filter.passes(row.system) || filter.passes(row.control));
    const missing = open.length
      ? el("details", {}, el("summary", {}, `${open.length} comparisons that cannot be made`),
          el("ul", {}, open.map((row) => el("li", {}, `${row.system} with ${row.control}: ${row.reason}`))))
      : null;
    if (!rows.length) return [el("p", { class: "problem" }, "No two systems that are shown have been compared."), missing ?? ""];
    const columns = [
      { title: "system", value: (row) => row.system },
      { title: "control", value: (row) => row.control },
      { title: "set", value: (row) => row.set },
      { title: "errors of both, %", number: true, value: (row) => row.rates[0], cell: (row) => row.rates.map((rate) => fixed(rate)).join(" / ") },
      { title: "difference", number: true, value: (row) => row.difference.value,
        cell: (row) => [signed(row.difference.value), " ", el("small", {}, row.difference.low === null ? "" : `[${signed(row.difference.low)}, ${signed(row.difference.high)}]`)] },
      { title: "verdict", class: "verdict", value: (row) => row.corrected_p, cell: verdictCell },
    ];
    const sets = [...new Set(rows.map((row) => row.set))];
    const plots = sets.map((set) => intervalChart(`Differences on ${set}`, "percentage points, 95 % intervals",
      rows.filter((row) => row.set === set).map((row) => ({ name: `${row.system} − ${row.control}`, system: row.system, ...row.difference })), true));
    return [sortable("verdict-table", columns, rows), el("div", { class: "plots" }, plots), missing ?? ""];
  });
}

function rates(body) {
  const ways = [...new Set(data.summaries.map((row) => row.decoding))];
  let way = "";
  if (ways.length > 1) {
    body.append(el("p", { class: "tools" }, select("way", "Decoding", [["", "as compared"], ...ways], way, (value) => { way = value; filter.set(filter.text); })));
  }
  filtered(body, () => {
    const rows = data.summaries.filter((row) => (way ? row.decoding === way : row.main) && filter.passes(row.system));
    const sets = [...new Set(rows.map((row) => row.set))].sort();
    const systems = [...new Set(rows.map((row) => row.system))];
    byId("shown").textContent = filter.text ? `${systems.length} of ${data.systems.length} systems` : "";
    if (!rows.length) return el("p", { class: "problem" }, "No scored system has such a name.");
    const find = (system, set) => rows.find((row) => row.system === system && row.set === set);
    const columns = [
      { title: "system", value: (name) => name },
      { title: "decoding", value: (name) => rows.find((row) => row.system === name).decoding },
      { title: "seeds", number: true, value: (name) => Math.max(...rows.filter((row) => row.system === name).map((row) => row.seeds.length)) },
      ...sets.map((set) => ({
        title: set,
        number: true,
        value: (name) => find(name, set)?.value ?? null,
        cell: (name) => { const row = find(name, set); return row ? [fixed(row.value), " ", el("small", {}, interval(row))] : "–"; },
      })),
    ];
    const plots = sets.map((set) => {
      const mine = rows.filter((row) => row.set === set && row.value !== null).sort((a, b) => a.value - b.value);
      const over = !mine[0]?.drawn ? "too few utterances for intervals" : mine[0].drawn === "speakers" ? `over ${mine[0].groups} speakers` : "over single utterances, not over speakers";
      return mine.length ? intervalChart(`${set}: ${NAMES[mine[0].measure]}, %`, over, mine.map((row) => ({ ...row, name: row.system }))) : null;
    });
    const notes = data.sets.map((set) => `${set.name}${set.development ? " (development)" : ""}: ${whole(set.utterances)} utterances, ` +
      `${set.speakers === null ? "speakers not known" : `${set.speakers} speakers`}, ${NAMES[set.measure]} after ${set.normalisation}`);
    return [sortable("rate-table", columns, systems), el("p", { class: "note" }, `Percent, mean over the seeds, with 95 % intervals. ${notes.join("; ")}.`),
      el("div", { class: "plots" }, plots.filter(Boolean))];
  });
}

function details(body) {
  body.append(el("p", { class: "note" }, "S, D, I: substituted, deleted and inserted. RTF: seconds of decoding per second of audio on the machine named in results.json. Commands and versions of every row: RESULTS.md."));
  filtered(body, () => {
    const trained = new Map(data.experiments.map((each) => [each.name, each]));
    const rows = data.results.filter((row) => row.scored && filter.passes(row.experiment));
    const counts = (row) => (row.counted === "char" ? row.characters : row.words);
    const number = (title, value, cell) => ({ title, number: true, value, cell: cell && ((row) => cell(value(row))) });
    const columns = [
      { title: "experiment", value: (row) => row.experiment, cell: (row) => [breakable(row.experiment), row.outdated ? el("span", { class: "caution" }, " (older model: decode again)") : null] },
      { title: "decoding", value: (row) => row.decoding },
      { title: "set", value: (row) => row.set },
      ...["wer", "cer", "ter", "ser"].filter((name) => rows.some((row) => row[name] !== null)).map((name) => number(name.toUpperCase(), (row) => row[name], fixed)),
      ...["substitutions", "deletions", "insertions"].map((name) => number(name[0].toUpperCase(), (row) => counts(row)?.[name], whole)),
      number("RTF", (row) => row.rtf, (value) => fixed(value, 4)),
      number("parameters", (row) => trained.get(row.experiment)?.parameters, whole),
      number("training", (row) => trained.get(row.experiment)?.training_seconds, span),
    ];
    return el("details", {}, el("summary", {}, `${rows.length} results`), sortable("detail-table", columns, rows, "many"));
  });
}
