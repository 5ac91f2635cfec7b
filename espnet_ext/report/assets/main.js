"use strict";
// The page from top to bottom. A section that fails says so and leaves the others alone.
function build() {
  const made = data.made_by;
  byId("about").textContent = `${data.systems.length} systems, ${data.experiments.length} experiments, ${data.results.length} results · ` +
    `espnet_ext ${(made.commit || "without a commit").slice(0, 12)} · RESULTS.md and results.csv beside this page have every command and number`;
  const parts = [
    ["verdicts", "Verdicts", verdicts], ["rates", "Error rates", rates], ["curves", "Learning curves", curves],
    ["errors", "Where the errors are", errors], ["utterance-list", "Utterances", utterances], ["details", "Every result", details],
  ];
  if (data.problems.length) {
    section("problems", "What is missing, or gave an alarm", (body) => body.append(el("ul", {}, data.problems.map((each) => el("li", { class: "problem" }, each)))));
  }
  for (const [id, title, part] of parts) {
    section(id, title, (body) => {
      try {
        part(body);
      } catch (error) {
        body.append(el("p", { class: "problem" }, `This part could not be drawn: ${error}`));
        console.error(error);
      }
    });
  }
  const footer = document.querySelector("footer");
  footer.append(el("p", {}, `Made by ${made.command}. `), ...data.page.notes.map((note) => el("p", {}, note)));
  byId("filter").addEventListener("input", (event) => filter.set(event.target.value));
}
build();
