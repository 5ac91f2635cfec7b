"use strict";
// A table that sorts by a click on a column's head. Columns: {title, value(row), cell(row) or nothing, number, name}.
// On a phone every row becomes a card;
// kind "many" does so on wider screens too, kind "narrow" nowhere.
function sortable(id, columns, rows, kind = "cards") {
  const state = { column: -1, down: false };
  const body = el("tbody", {});
  const heads = columns.map((column, at) =>
    el(
      "th",
      { scope: "col", class: column.number ? "number" : null },
      el("button", { type: "button", onclick: () => sort(at) }, column.title),
    ),
  );
  const compare = (one, other) => {
    const column = columns[state.column];
    const [a, b] = [column.value(one), column.value(other)];
    const [noA, noB] = [a === null || a === undefined, b === null || b === undefined];
    if (noA || noB) return noA - noB; // what is missing stands last, whichever way
    const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return state.down ? -order : order;
  };
  const fillBody = () => {
    const ordered = state.column < 0 ? rows : [...rows].sort(compare);
    body.replaceChildren(
      ...ordered.map((row) =>
        el(
          "tr",
          {},
          columns.map((column) =>
            el(
              "td",
              { class: column.class || (column.number ? "number" : null), "data-title": column.title },
              el("span", {}, column.cell ? column.cell(row) : breakable(column.value(row) ?? "–")),
            ),
          ),
        ),
      ),
    );
    heads.forEach((head, at) => {
      if (at !== state.column) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    });
  };
  const sort = (at) => {
    if (state.column === at) state.down = !state.down;
    else Object.assign(state, { column: at, down: false });
    fillBody();
  };
  fillBody();
  return el("div", { class: "wide" }, el("table", { id, class: kind }, el("thead", {}, el("tr", {}, heads)), body));
}
