"use strict";
// Only searching and folding: without this script the whole page can be read.
const form = document.querySelector(".search");
if (form) {
  const entries = [...document.querySelectorAll("#list > details, #list > tr")];
  const texts = entries.map((entry) => entry.textContent.normalize("NFKC").toLowerCase());
  const find = document.getElementById("find"), kind = document.getElementById("kind");
  const found = document.getElementById("found");
  const filter = () => {
    const words = find.value.normalize("NFKC").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    entries.forEach((entry, place) => {
      const fits = (!kind || !kind.value || entry.dataset.kind === kind.value)
        && words.every((word) => texts[place].includes(word));
      entry.hidden = !fits;
      shown += fits;
    });
    found.textContent = `${shown} of ${entries.length} shown`;
  };
  const fold = (open) => entries.forEach((entry) => { if (!entry.hidden) entry.open = open; });
  find.addEventListener("input", filter);
  kind?.addEventListener("change", filter);
  document.getElementById("unfold")?.addEventListener("click", () => fold(true));
  document.getElementById("fold")?.addEventListener("click", () => fold(false));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter();
}
