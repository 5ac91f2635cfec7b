"use strict";
// Where one model's errors are: confusions, speakers, lengths.
function errors(body) {
  const models = data.page.errors;
  if (!models.length) {
    body.append(el("p", { class: "problem" }, "No model has alignments: run stage 11 (score)."));
    return;
  }
  let at = Math.max(0, models.findIndex((each) => !each.development));
  const place = el("div", {});
  const draw = () => {
    const model = models[at];
    const cell = (value) => value ?? "*";
    const counts = [
      { title: "rate, %", number: true, value: (row) => row.rate, cell: (row) => fixed(row.rate) },
      { title: "errors of", number: true, value: (row) => row.reference, cell: (row) => `${whole(row.errors)} of ${whole(row.reference)}` },
      { title: "S+D+I", number: true, value: (row) => row.errors, cell: (row) => `${row.substitutions}+${row.deletions}+${row.insertions}` },
    ];
    place.replaceChildren(
      el("div", { class: "plots" },
        el("div", {}, el("h3", {}, "Most frequent confusions"), el("p", { class: "note" }, "* is nothing: a word that was left out or put in."),
          sortable("confusion-table", [
            { title: "times", number: true, value: (row) => row[2] },
            { title: "said", value: (row) => cell(row[0]) },
            { title: "recognised", value: (row) => cell(row[1]) },
          ], model.confusions, "narrow")),
        el("div", {}, el("h3", {}, `By length of the utterance (${model.unit})`), sortable("length-table", [{ title: "length", value: (row) => row.name }, ...counts], model.lengths, "narrow")),
      ),
      model.speakers ? el("details", {}, el("summary", {}, `By speaker (${model.speakers.length})`), sortable("speaker-table", [{ title: "speaker", value: (row) => row.name }, ...counts], model.speakers, "narrow")) : "",
    );
  };
  body.append(el("p", { class: "tools" }, select("errors-of", "Model and set", models.map((each, index) => [String(index), `${each.experiment} on ${each.set}`]), String(at), (value) => { at = +value; draw(); })), place);
  draw();
}
