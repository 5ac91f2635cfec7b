"use strict";
// Learning curves, and what is particular to a method. Panels were chosen in report/curves.yaml.
function panels(list) {
  return list
    .map((panel) => {
      const series = panel.series.filter((each) => filter.passes(each.experiment)).map((each) => ({ ...each, name: `${each.experiment}: ${each.column}` }));
      return series.length ? lineChart(panel.title, panel.note, series) : null;
    })
    .filter(Boolean);
}

function curves(body) {
  filtered(body, () => {
    const systems = [...new Set(data.page.curves.flatMap((group) => group.panels.flatMap((panel) => panel.series)).filter((each) => filter.passes(each.experiment)).map((each) => each.system))];
    const groups = data.page.curves.map((group) => {
      const plots = panels(group.panels);
      return plots.length ? [el("h3", {}, group.title), group.what ? el("p", { class: "note" }, group.what) : null, el("div", { class: "plots" }, plots)] : null;
    });
    if (!systems.length) return el("p", { class: "problem" }, "No training that is shown has left a history.csv.");
    return [el("p", { class: "note" }, "From each training's history.csv; thin lines are of training, thick ones of validation."), legend(systems), ...groups.flat().filter(Boolean)];
  });
  const rows = data.page.calibration;
  if (!rows.length) return;
  body.append(el("h3", {}, "Calibration"), el("p", { class: "note" }, "How far the decoder's confidence is from how often it is right: the expected calibration error (0 is perfect), its mean confidence and its accuracy."));
  filtered(body, () => sortable("calibration-table", [
    { title: "experiment", value: (row) => row.experiment },
    { title: "set", value: (row) => row.set },
    ...[["calibration error", "ece"], ["confidence", "max_posterior"], ["accuracy", "accuracy"]].map(([title, name]) => ({
      title, number: true, value: (row) => row[name], cell: (row) => fixed(row[name], 4) })),
  ], rows.filter((row) => filter.passes(row.experiment))));
}
