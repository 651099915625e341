"""What a reader's browser makes of the built site: every page, in headless Chromium, on a wide screen and on a phone.

Skipped where there is no browser or no site; with `REQUIRE_BROWSER=1` (continuous integration) that is a failure.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from entity_book.build import site
from entity_circuits import places

HTML = places.ROOT / "_build" / "html"
PAGES = [path.relative_to(HTML).as_posix() for path in site.pages(HTML) if path != HTML / "index.html"] or ["none"]
CHART_PAGES = [name for name in PAGES if name != "none" and 'class="book-chart"' in (HTML / name).read_text("utf-8")]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

WIDE = {"width": 1400, "height": 900}

# The smallest contrast between a text and what lies behind it, over all texts that match: [ratio, text, colours].
CONTRAST = """selector => {
  const channel = v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const numbers = s => (s.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const parse = s => { const v = numbers(s); return v.length < 4 ? [...v, 1] : v; };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3]));
  const behind = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  let worst = [99, "", ""], count = 0;
  for (const element of document.querySelectorAll(selector)) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    const style = getComputedStyle(element);
    if (!own || !element.getClientRects().length || style.visibility !== "visible") continue;
    count += 1;
    const svg = element instanceof SVGElement;
    const ground = behind(svg ? element.closest("svg").parentElement : element);
    const ink = over(parse(svg ? style.fill : style.color), ground);
    const [x, y] = [light(ink), light(ground)].sort((a, b) => b - a);
    const ratio = (x + 0.05) / (y + 0.05);
    if (ratio < worst[0]) worst = [ratio, element.textContent.trim().slice(0, 60), `${ink} on ${ground}`];
  }
  return { count, worst };
}"""
UNREACHED = """() => [...document.querySelectorAll(".bd-article :is(table, pre, .book-chart)")]
  .filter(e => e.scrollWidth > e.clientWidth && ["auto", "scroll"].includes(getComputedStyle(e).overflowX))
  .filter(e => e.tabIndex < 0).map(e => e.outerHTML.slice(0, 100))"""
AXE = Path(__file__).parent / "axe" / "axe.min.js"
PROSE = "article :is(p, li, h1, h2, h3, h4, td, th, dt, dd, a, span, em, strong, code), nav :is(a, p, span)"
GUIDES = ".book-chart-live svg :is(.role-axis, .role-legend, .role-title, .role-header, .role-column-header) text"

# A point of the chart at which a mark lies uppermost, tried one after the other by the caller.
MARKS = """chart => {
  chart.scrollIntoView({ block: "center" });
  const kinds = ["symbol", "rect", "arc", "rule", "text", "line", "area", "trail"];
  const points = [];
  for (const kind of kinds)
    for (const mark of chart.querySelectorAll(`.book-chart-live .mark-${kind}.role-mark :is(path, line, text)`)) {
      const box = mark.getBoundingClientRect();
      const x = box.x + box.width / 2, y = box.y + box.height / 2;
      if (document.elementFromPoint(x, y) === mark) points.push([x, y]);
      if (points.length >= 20) return points;
    }
  return points;
}"""


def missing(reason: str) -> None:
    if os.environ.get("REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    if not (HTML / "index.html").is_file():
        missing("the site is not built: `entity-circuits book`")
    with site.server(HTML) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        missing(f"no browser is installed (looked for {', '.join(names)})")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """A page opened in a context of its own. It fails when left if the page complained or asked another host."""

    def __init__(self, browser, address: str, name: str, **options):
        self.complaints: list[str] = []
        self.strangers: list[str] = []
        self.answers: list = []
        self.name = name
        self.context = browser.new_context(**{"viewport": WIDE, **options})
        self.context.route("**/*", lambda route: self._pass(route, address))
        self.page = self.context.new_page()
        self.page.on("console", self._heard)
        self.page.on("response", lambda one: self.answers.append(one))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(f"{address}/{name}", wait_until="load")

    def _pass(self, route, address: str) -> None:
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            self.strangers.append(route.request.url)
            route.abort()

    def _heard(self, message) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def drawn(self) -> list:
        """The charts of the page, once each of them is drawn."""
        self.page.wait_for_function("!document.querySelector('.book-chart:not(.is-live)')", timeout=20_000)
        return self.page.query_selector_all(".book-chart")

    def charts(self) -> list:
        """The same, with all that is folded opened."""
        boxes = self.drawn()
        self.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        self.page.wait_for_function(
            "document.getAnimations().every(one => one.playState !== 'running')"
        )  # they fade in
        return boxes

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, error: type | None, *_: object) -> None:
        self.context.close()
        if error is None:
            assert (self.complaints, self.strangers) == ([], []), self.name


def _of(pages: list[str]) -> list:
    """Pages as parameters; all tests of a page go to one process, which opens it once for each way of looking at it."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in pages]


@pytest.fixture(scope="module", params=_of(PAGES))
def light(request, browser, address) -> Iterator[Visit]:
    with Visit(browser, address, request.param) as visit:
        visit.charts()
        visit.page.wait_for_load_state("networkidle")
        yield visit


@pytest.fixture(scope="module", params=_of(PAGES))
def dark(request, browser, address) -> Iterator[Visit]:
    with Visit(browser, address, request.param, color_scheme="dark") as visit:
        visit.charts()
        visit.page.wait_for_load_state("networkidle")
        yield visit


@pytest.fixture(scope="module", params=_of(PAGES))
def phone(request, browser, address) -> Iterator[Visit]:
    with Visit(browser, address, request.param, viewport={"width": 390, "height": 844}) as visit:
        visit.charts()
        visit.page.wait_for_timeout(700)  # the theme waits for a resize to end
        yield visit


def test_a_page_draws_all_of_its_charts(light):
    assert bool(light.charts()) == (light.name in CHART_PAGES)


# `Visit` asks this of every page in every test: light and dark, wide and on a phone, with and without a server.
@pytest.mark.parametrize("does", ["console.error('oh')", "null.x", "fetch('http://other.example/').catch(() => 0)"])
def test_a_page_that_complains_or_asks_another_host_fails(browser, address, does):
    visit = Visit(browser, address, "book/intro.html")
    visit.page.evaluate(f"() => {{ setTimeout(() => {{ {does}; }}, 0); }}")
    visit.page.wait_for_timeout(500)
    with pytest.raises(AssertionError, match="intro"):
        visit.__exit__(None)


@pytest.mark.parametrize("name", _of([name for name in PAGES if name.startswith("chapters/")]))
def test_a_chapter_takes_at_most_15_screens_as_long_as_nothing_is_unfolded(browser, address, name):
    with Visit(browser, address, name) as visit:
        visit.drawn()
        assert visit.page.evaluate("document.documentElement.scrollHeight") <= 15 * WIDE["height"]


def test_a_page_weighs_at_most_3_megabytes_with_all_that_a_first_visit_loads(light):
    sizes = {answer.url: len(answer.body()) for answer in light.answers if answer.ok}
    assert sum(sizes.values()) <= 3e6, sorted(((size, url) for url, size in sizes.items()), reverse=True)[:5]


def seen_by_axe(visit: Visit) -> list[str]:
    visit.page.evaluate(AXE.read_text("utf-8"))
    found = visit.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert len(found["passes"]) > 10
    return [
        f"{wrong['id']} ({wrong['impact']}): {node['target']} {node['html'][:120]}"
        for wrong in found["violations"]
        if wrong["impact"] in ("serious", "critical")
        for node in wrong["nodes"]
    ]


def test_axe_finds_nothing_serious_on_a_light_page(light):
    assert seen_by_axe(light) == []


def test_axe_finds_nothing_serious_on_a_dark_page(dark):
    assert seen_by_axe(dark) == []


def test_what_scrolls_on_a_phone_can_be_reached_with_the_keyboard(phone):
    """Apart from axe, which skips what is not in sight: the tables of a page, narrow."""
    assert phone.page.evaluate(UNREACHED) == []


def test_axe_sees_a_picture_without_words(browser, address):
    with Visit(browser, address, PAGES[0]) as visit:
        visit.page.evaluate("document.querySelector('article').append(new Image(9, 9))")
        visit.page.evaluate(AXE.read_text("utf-8"))
        found = visit.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        assert "image-alt" in [wrong["id"] for wrong in found["violations"]]


def test_every_chart_is_drawn_over_its_picture_and_shows_a_tooltip(light):
    for number, chart in enumerate(light.charts(), 1):
        assert chart.query_selector(".book-chart-live svg [aria-label]"), f"chart {number} is not labelled"
        assert not chart.query_selector("img").is_visible(), f"chart {number} shows its picture too"
        points = chart.evaluate(MARKS)
        assert points, f"chart {number} has no mark that the pointer can reach"
        for x, y in points:
            light.page.mouse.move(0, 0)
            light.page.mouse.move(x, y)
            if light.page.query_selector("#vg-tooltip-element.visible"):
                break
        tooltip = light.page.query_selector("#vg-tooltip-element.visible")
        assert tooltip, f"chart {number} shows no tooltip"
        assert tooltip.inner_text().strip()
    light.page.mouse.move(0, 0)  # the next test sees the page as it is


@pytest.mark.parametrize("name", CHART_PAGES)
def test_without_javascript_every_chart_is_a_picture_with_words(browser, address, name):
    with Visit(browser, address, name, java_script_enabled=False) as visit:
        pictures = visit.page.query_selector_all(".book-chart img.book-chart-static")
        assert len(pictures) == (HTML / name).read_text("utf-8").count('class="book-chart"')
        for picture in pictures:
            picture.scroll_into_view_if_needed()
            box = picture.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) > 50
            assert len(picture.get_attribute("alt")) > 20
            assert "none" not in picture.evaluate("p => getComputedStyle(p).display")


def test_a_phone_never_scrolls_sideways(phone):
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390


def require_contrast(visit: Visit, scheme: str) -> None:
    assert visit.page.evaluate("document.documentElement.dataset.theme") == scheme
    prose = visit.page.evaluate(CONTRAST, PROSE)
    assert prose["count"] > 3
    assert prose["worst"][0] >= 4.5, prose["worst"]
    if visit.charts():
        guides = visit.page.evaluate(CONTRAST, GUIDES)
        assert guides["count"] > 0
        assert guides["worst"][0] >= 4.5, guides["worst"]


def test_text_stands_out_from_what_lies_behind_it_when_light(light):
    require_contrast(light, "light")


def test_text_stands_out_from_what_lies_behind_it_when_dark(dark):
    require_contrast(dark, "dark")


@pytest.mark.parametrize("name", CHART_PAGES[:1])
def test_charts_follow_the_reader_who_switches_to_dark(browser, address, name):
    with Visit(browser, address, name, color_scheme="light") as visit:
        visit.charts()
        before = visit.page.evaluate(CONTRAST, GUIDES)["worst"][2]
        visit.page.evaluate("document.documentElement.dataset.theme = 'dark'")
        visit.page.wait_for_timeout(1500)
        after = visit.page.evaluate(CONTRAST, GUIDES)
        assert after["worst"][2] != before
        assert after["worst"][0] >= 4.5
        lives = "document.querySelectorAll('.book-chart-live').length"
        assert visit.page.evaluate(lives) == len(visit.page.query_selector_all(".book-chart"))


def test_the_search_finds_a_word_of_the_book(browser, address):
    with Visit(browser, address, "search.html?q=circuit") as visit:
        visit.page.wait_for_selector("#search-results li a", timeout=10_000)


def test_formulas_are_drawn_with_local_fonts(browser, address):
    with Visit(browser, address, "book/intro.html") as visit:
        visit.page.wait_for_selector("mjx-container", timeout=10_000)
        fonts = "document.fonts.ready.then(f => [...f].filter(x => /MJX/.test(x.family) && x.status == 'error').length)"
        assert visit.page.evaluate(fonts) == 0


def test_the_front_door_leads_to_the_book(browser, address):
    with Visit(browser, address, "index.html") as visit:
        visit.page.wait_for_url("**/book/intro.html", timeout=10_000)


def test_nothing_is_broken_in_the_built_pages(address):
    assert site.check(Path(HTML)).problems == ()


# What stands behind a number, and tables on a phone


def having(mark: str) -> list[str]:
    return [name for name in PAGES if name != "none" and mark in (HTML / name).read_text("utf-8")]


BEHIND, TABLES = having('class="book-behind"'), having('class="book-table"')
QUOTING = [name for name in having('class="book-quoted') if name in BEHIND]


def test_the_data_behind_every_figure_and_table_can_be_had(light):
    files = light.page.eval_on_selector_all(".book-behind a[download]", "all => all.map(a => a.href)")
    assert bool(files) == (light.name in BEHIND)
    for file in files:
        answer = light.context.request.get(file)
        assert answer.ok, file
        assert len(answer.text().splitlines()) > 1, file
    places = light.page.eval_on_selector_all(
        ".book-behind a:not([download])", "all => all.filter(a => !document.getElementById(a.hash.slice(1))).length"
    )
    assert places == 0


def test_a_quoted_number_leads_to_its_cell_and_opens_it(light):
    numbers = light.page.query_selector_all("a.book-quoted[href^='#cell-']")[:5]
    assert bool(numbers) == (light.name in QUOTING)
    for number in numbers:
        light.page.evaluate("document.querySelectorAll('details.above-input').forEach(one => one.open = false)")
        number.evaluate("a => a.click()")
        place = number.get_attribute("href")
        light.page.wait_for_function("place => location.hash === place", arg=place)
        light.page.wait_for_function(
            "place => [...document.querySelectorAll(`${place} details.above-input`)].every(one => one.open)",
            arg=place,
        )
        top = light.page.evaluate("place => document.querySelector(place).getBoundingClientRect().top", place)
        assert -5 <= top <= WIDE["height"]


def test_on_a_phone_every_row_of_a_table_is_a_card_that_names_each_of_its_cells(phone):
    assert bool(phone.page.query_selector(".book-table")) == (phone.name in TABLES)
    wrong = phone.page.evaluate("""() => [...document.querySelectorAll(".book-table")].flatMap(table => [
      ...[...table.querySelectorAll("tbody td")].filter(cell =>
        !getComputedStyle(cell, "::before").content.includes(cell.dataset.label)),
      ...(table.querySelector("thead").getBoundingClientRect().height > 2 ? [table] : []),
      ...(table.scrollWidth > table.clientWidth + 1 ? [table] : []),
    ].map(one => one.outerHTML.slice(0, 100)))""")
    assert wrong == []


# Figures in which something is chosen, by pointer, finger and keyboard; a page from a file; a page on paper

CHOOSING = having('"bind"')
TEXTS = (
    "chart => [...chart.querySelectorAll('.book-chart-live .mark-text.role-mark text')].map(t => t.textContent).join()"
)
# The heads of a map that can be clicked: name and middle of each cell.
CELLS = """chart => [...chart.querySelectorAll(".book-chart-live .mark-rect.role-mark path[aria-label^='head: ']")]
  .map(cell => [cell.getAttribute("aria-label").match(/^head: (\\d+); layer: (\\d+);/), cell.getBoundingClientRect()])
  .map(([[_, head, layer], box]) => [`L${layer}H${head}`, box.x + box.width / 2, box.y + box.height / 2])"""


def require_choice_by(visit: Visit, point) -> None:
    """In every head map of the page two heads are pointed at; each time the figure and its list then have that head."""
    maps = [chart for chart in visit.charts() if chart.query_selector(".vega-bind select")]
    assert maps
    for chart in maps:
        chart.scroll_into_view_if_needed()
        choice = chart.query_selector(".vega-bind select")
        others = [cell for cell in chart.evaluate(CELLS) if cell[0] != choice.input_value()]
        for head, x, y in (others[0], others[len(others) // 2]):
            before = chart.evaluate(TEXTS)
            assert f"{head}: score" not in before
            point(x, y)
            visit.page.wait_for_function(
                f"([chart, head]) => ({TEXTS})(chart).includes(head)", arg=[chart, f"{head}: score"]
            )
            assert choice.input_value() == head


@pytest.mark.parametrize("name", CHOOSING)
def test_a_click_on_a_head_shows_that_head(browser, address, name):
    with Visit(browser, address, name) as visit:
        require_choice_by(visit, visit.page.mouse.click)


@pytest.mark.parametrize("name", CHOOSING)
def test_a_finger_on_a_phone_chooses_a_head(browser, address, name):
    with Visit(browser, address, name, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as visit:
        require_choice_by(visit, visit.page.touchscreen.tap)


@pytest.mark.parametrize("name", CHOOSING)
def test_the_keyboard_reaches_every_choice_and_changes_the_figure(browser, address, name):
    with Visit(browser, address, name) as visit:
        charts = [chart for chart in visit.charts() if chart.query_selector(".vega-bind")]
        assert charts
        for chart in charts:
            chart.evaluate("chart => { chart.tabIndex = -1; chart.focus(); }")  # the key goes on from the figure
            visit.page.keyboard.press("Tab")
            kind = chart.evaluate("chart => chart.contains(document.activeElement) && document.activeElement.type")
            assert kind in ("select-one", "radio")
            before = chart.evaluate(TEXTS)
            visit.page.keyboard.press("ArrowUp" if kind == "radio" else "ArrowDown")
            visit.page.wait_for_function(f"([chart, before]) => ({TEXTS})(chart) !== before", arg=[chart, before])


@pytest.mark.parametrize("name", CHOOSING)
def test_a_page_opened_as_a_file_without_a_server_answers_a_click(browser, name):
    with Visit(browser, HTML.as_uri(), name) as visit:
        require_choice_by(visit, visit.page.mouse.click)


# What is cut off at the edge of a printed sheet, what has no place on paper, how often each chart is drawn on it.
ON_PAPER = """() => {
  const seen = e => e.getClientRects().length > 0;
  const all = s => [...document.querySelectorAll(s)].filter(seen);
  const cut = e => e.getBoundingClientRect().right > innerWidth || e.scrollWidth > e.clientWidth + 1;
  return {
    cut: all(".bd-article :is(table, pre, .book-chart, img)").filter(cut).map(e => e.outerHTML.slice(0, 90)),
    screen: all(".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header, .book-behind").map(e => e.className),
    charts: [...document.querySelectorAll(".book-chart")].filter(seen).map(chart =>
      [...chart.querySelectorAll("img, .book-chart-live")].filter(seen).length),
  };
}"""


def require_on_paper(visit: Visit) -> None:
    try:
        visit.page.set_viewport_size({"width": 718, "height": 1000})  # A4 within its margins
        visit.page.emulate_media(media="print")
        visit.page.wait_for_timeout(300)
        found = visit.page.evaluate(ON_PAPER)
        assert found["cut"] == []
        assert found["screen"] == []
        assert set(found["charts"]) <= {1}
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert visit.page.evaluate(CONTRAST, PROSE.split(", nav")[0])["worst"][0] >= 4.5
        assert visit.page.pdf(format="A4").startswith(b"%PDF")
    finally:
        visit.page.emulate_media(media="screen")
        visit.page.set_viewport_size(WIDE)


def test_a_page_is_printed_dark_on_white_and_whole_by_day(light):
    require_on_paper(light)


def test_a_page_is_printed_dark_on_white_and_whole_by_night(dark):
    require_on_paper(dark)
    dark.page.wait_for_function("document.documentElement.dataset.theme === 'dark'")  # and is dark again afterwards
