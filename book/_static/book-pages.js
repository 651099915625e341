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

  new ResizeObserver(reach).observe(document.body);
  window.addEventListener("load", reach);
})();
