/* Draws each chart over its static picture, in the colours of the page, and again when the reader switches between
   light and dark. Without this script, or without Vega, the picture stays. */
(function () {
  "use strict";
  if (!window.vegaEmbed) return;
  var root = document.documentElement;

  // The specification sets no colour of text, axes or grid (see charts.py): they belong to the page.
  function colours(dark) {
    var text = dark ? "#e6e6e6" : "#1f2328", line = dark ? "#8b949e" : "#6e7781", grid = dark ? "#3d444d" : "#d8dee4";
    var words = { labelColor: text, titleColor: text };
    return {
      axis: Object.assign({ domainColor: line, tickColor: line, gridColor: grid }, words),
      legend: words,
      header: words,
      title: { color: text, subtitleColor: text },
      text: { color: text }
    };
  }

  // Data come with the names of their columns once (see `packed` in sphinx_ext.py); Vega wants them in every row.
  function unpacked(spec) {
    Object.keys(spec.datasets || {}).forEach(function (name) {
      var data = spec.datasets[name];
      if (!data.rows) return;
      spec.datasets[name] = data.rows.map(function (row) {
        return Object.fromEntries(row.map(function (value, at) { return [data.columns[at], value]; }));
      });
    });
    return spec;
  }

  function draw(box) {
    var dark = root.dataset.theme === "dark";
    if (box.dataset.drawn === String(dark)) return;
    box.dataset.drawn = String(dark);
    var picture = box.querySelector("img");
    var spec = unpacked(JSON.parse(box.querySelector('script[type="application/json"]').textContent));
    var live = document.createElement("div");
    live.className = "book-chart-live";
    box.appendChild(live);
    var options = {
      actions: false, renderer: "svg", config: colours(dark), tooltip: { theme: dark ? "dark" : "light" }
    };
    window.vegaEmbed(live, spec, options).then(function () {
      box.querySelectorAll(".book-chart-live").forEach(function (other) { if (other !== live) other.remove(); });
      // A chart wider than the page shrinks, but not so far that its text becomes too small; then its box scrolls.
      var svg = live.querySelector("svg");
      svg.style.minWidth = Math.round(0.75 * svg.getAttribute("width")) + "px";
      // What draws nothing, a layer without a row, is nothing to tell about.
      svg.querySelectorAll("g[role='graphics-symbol']:is(:empty, :not([aria-label]))").forEach(function (mark) { mark.removeAttribute("role"); });
      picture.hidden = true;
      box.classList.add("is-live");
    }).catch(function (error) {
      live.remove();
      console.error("a chart was not drawn:", error);
    });
  }

  function drawAll() { document.querySelectorAll(".book-chart").forEach(draw); }
  drawAll();
  new MutationObserver(drawAll).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
})();
