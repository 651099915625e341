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

  // The views that stand side by side in a specification, with the width of all of them; `whole` is that of the chart.
  function across(spec, whole) {
    var parts = (spec.hconcat || spec.vconcat || spec.layer || (spec.spec ? [spec.spec] : [])).map(function (part) { return across(part, whole); });
    var widths = parts.map(function (part) { return part.width; });
    var width = typeof spec.width === "number" ? spec.width : 0;
    if (spec.hconcat) width = widths.reduce(function (sum, one) { return sum + one; }, 0);
    else if (parts.length) width = Math.max.apply(null, widths.concat(width));
    if (spec.spec) width *= spec.columns || (spec.facet && spec.facet.column ? Math.max(1, Math.floor(whole / width)) : 1);
    var views = typeof spec.width === "number" ? [spec] : [];
    return { width: width, views: parts.reduce(function (all, part) { return all.concat(part.views); }, views) };
  }

  // Charts are made for a phone; where there is more room their views grow, and the text in them does not.
  function grown(spec, whole, room) {
    var all = across(spec, whole);
    var times = Math.min(2.2, (Math.min(room, 760) - (whole - all.width)) / all.width);
    if (!(times > 1.05)) return spec;
    all.views.forEach(function (view) { view.width = Math.floor(view.width * times); });
    if (all.views.length === 1 && !spec.spec && spec.height >= 150 && spec.height <= 300) spec.height = Math.round(spec.height * Math.min(times, 1.25));
    return spec;
  }

  // Views that stand beside each other stand below each other where they are wider than the page, on a phone.
  function stacked(spec, whole, room) {
    if (room >= 0.9 * whole) return spec;
    if (spec.columns > 1) spec.columns = 1;
    if (!spec.hconcat) return spec;
    spec.vconcat = spec.hconcat;
    delete spec.hconcat;
    return spec;
  }

  function draw(box) {
    var dark = root.dataset.theme === "dark";
    if (box.dataset.drawn === String(dark)) return;
    box.dataset.drawn = String(dark);
    var picture = box.querySelector("img");
    var spec = unpacked(JSON.parse(box.querySelector('script[type="application/json"]').textContent));
    var whole = parseFloat(picture.style.width);
    var before = across(spec, whole).width, room = box.clientWidth;
    spec = stacked(spec, whole, room);
    spec = grown(spec, whole - before + across(spec, whole).width, room);  // below each other they have more room
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

  var paper = window.matchMedia("print");
  function drawAll() { if (!paper.matches) document.querySelectorAll(".book-chart").forEach(draw); }
  drawAll();
  new MutationObserver(drawAll).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
})();
