
"use strict";
// Says what is under the pointer or the focus, goes from mark to mark by arrow keys, hides sorts of marks.
(() => {
  const told = document.getElementById("told");
  const marks = "[role=img][title], .v";
  const tell = (mark) => {
    told.textContent = mark ? mark.title : "";
    told.hidden = !mark;
  };
  document.addEventListener("mouseover", (event) => tell(event.target.closest(".track, #told") && event.target.closest(marks)));
  document.addEventListener("focusin", (event) => tell(event.target.closest(marks)));
  document.addEventListener("focusout", () => tell(null));
  for (const track of document.querySelectorAll(".track")) {
    const first = track.querySelector(marks);
    if (first) first.tabIndex = 0;
  }
  document.addEventListener("keydown", (event) => {
    const mark = event.target.closest(marks);
    if (event.key === "Escape") tell(null);
    if (!mark || event.ctrlKey || event.altKey || event.metaKey) return;
    const all = [...mark.closest(".track").querySelectorAll(marks)]
      .filter((each) => each.checkVisibility())
      .sort((one, other) => parseFloat(one.style.left) - parseFloat(other.style.left));
    const at = all.indexOf(mark);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = all[Math.max(0, Math.min(all.length - 1, to))];
    mark.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  for (const box of document.querySelectorAll("input[data-hides]")) {
    box.hidden = false;
    box.addEventListener("change", () => document.body.classList.toggle("no-" + box.dataset.hides, !box.checked));
  }
  document.querySelector(".tools").hidden = false;
  document.getElementById("filter").addEventListener("input", (event) => {
    for (const election of document.querySelectorAll(".election")) {
      election.hidden = !election.dataset.name.includes(event.target.value);
    }
  });
  for (const [id, open] of [["open", true], ["close", false]]) {
    document.getElementById(id).addEventListener("click", () => {
      for (const strip of document.querySelectorAll(".strip")) strip.open = open;
    });
  }
})();
