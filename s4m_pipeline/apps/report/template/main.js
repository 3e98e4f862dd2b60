"use strict";

document.getElementById("name").textContent = data.name;
document.getElementById("made").textContent =
  `Report made ${data.made_at.replace("T", " ").replace("+00:00", " UTC")} by s4m ${data.made_by}`;
drawSummary();
drawEvaluation();
drawErrors();
drawDataset();
drawTrainings();
drawLabels();
drawGallery();
drawPictures();
drawProvenance();
for (const section of document.querySelectorAll("section[data-title]:not([hidden])")) {
  document
    .getElementById("sections")
    .append(element("li", {}, element("a", { href: `#${section.id}` }, section.dataset.title)));
}
