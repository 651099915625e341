/* What is wider than the page scrolls in its own place: so it has to take the focus, or the keyboard cannot scroll it. */
(function () {
  "use strict";
  var WIDE = ".bd-article :is(table, pre, .book-chart, mjx-container[display='true'])";

  function reach() {
    document.querySelectorAll(WIDE).forEach(function (element) {
      var scrolls = element.scrollWidth > element.clientWidth && getComputedStyle(element).overflowX !== "visible";
      if (scrolls && !element.hasAttribute("tabindex")) {
        element.tabIndex = 0;
        element.dataset.reached = "";
      } else if (!scrolls && "reached" in element.dataset) {
        element.removeAttribute("tabindex");
        delete element.dataset.reached;
      }
    });
  }

  // A table of the text with many columns is a card for each row on a phone, as those of cells are; book.css lays it out.
  document.querySelectorAll(".bd-article table:not(.book-table, .indextable)").forEach(function (table) {
    var names = Array.from(table.querySelectorAll("thead th"), function (head) { return head.textContent.trim(); });
    if (names.length < 4) return;
    table.classList.add("book-cards");
    table.querySelectorAll("tbody tr").forEach(function (row) {
      Array.from(row.cells).slice(1).forEach(function (cell, at) { cell.dataset.label = names[at + 1]; });
    });
  });

  // Who follows a link to a cell wants to see its code.
  function open() {
    var cell = location.hash.startsWith("#cell-") && document.getElementById(location.hash.slice(1));
    var folded = cell && cell.querySelector("details.above-input");
    if (folded) folded.open = true;
    if (cell) cell.scrollIntoView();
  }

  // What is printed at night is printed dark on white as well.
  var root = document.documentElement, paper = window.matchMedia("print"), theme;
  paper.addEventListener("change", function () {
    if (paper.matches) theme = root.dataset.theme;
    root.dataset.theme = paper.matches ? "light" : theme;
  });

  window.addEventListener("hashchange", open);
  document.addEventListener("click", function (event) {
    var link = event.target.closest && event.target.closest("a[href^='#cell-']");
    if (link && link.hash === location.hash) open();
  });
  open();

  new ResizeObserver(reach).observe(document.body);
  window.addEventListener("load", reach);
})();
