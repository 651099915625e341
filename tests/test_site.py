"""The check of a built site, on small sites with one fault each; and the Sphinx side of charts."""

import errno
import http.client
import json
import re
import urllib.request
from importlib import resources
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.core import publish_doctree
from entity_book.build import book, cli, finish, numbers, site, sphinx_ext
from entity_book.build.book import BookError
from entity_book.claims import claims, findings
from entity_book.figures import charts
from entity_circuits import places
from myst_parser.docutils_ import Parser as MystParser
from small_book import add

CHART = '<div class="book-chart"><img class="book-chart-static" src="c.svg" alt="One bar."/>{}</div>'
SPEC = '<script type="application/json">{}</script>'


def problems(tmp_path, body: str, head: str = "") -> tuple[str, ...]:
    (tmp_path / "c.svg").write_text("<svg/>")
    (tmp_path / "other.html").write_text('<html><body><h1 id="there">Other</h1></body></html>')
    (tmp_path / "index.html").write_text(f"<html><head>{head}</head><body>{body}</body></html>")
    return site.check(tmp_path).problems


@pytest.mark.parametrize(
    "body",
    [
        '<a href="other.html#there">x</a> <a href="#here">y</a><p id="here"></p>',
        '<a href="https://arxiv.org/abs/2402.14811">paper</a>',
        '<img src="c.svg" alt="A bar and a line"/>',
        CHART.format(SPEC.format("{}")),
    ],
)
def test_a_sound_page_has_no_problem(tmp_path, body):
    assert problems(tmp_path, body) == ()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<a href="nowhere.html">x</a>', "nowhere.html, which does not exist"),
        ('<a href="other.html#elsewhere">x</a>', "no such place"),
        ('<a href="../outside.html">x</a>', "which does not exist"),
        ('<p id="a"></p><p id="a"></p>', "id 'a' is used 2 times"),
        ('<img src="c.svg"/>', "no alternative text"),
        ('<img src="c.svg" alt="../_images/chart.svg"/>', "a file name as its alternative text"),
        ('<a href="https://example.org/">x</a>', "not in LINKED_HOSTS"),
        ('<script src="https://arxiv.org/x.js"></script>', "loads https://arxiv.org/x.js"),
        ('<img src="//arxiv.org/x.png" alt="A bar"/>', "loads //arxiv.org/x.png"),
        ("<style>@import 'https://arxiv.org/x.css';</style>", "loads https://arxiv.org/x.css"),
        (CHART.format(""), "no readable specification"),
        (CHART.format(SPEC.format("{")), "no readable specification"),
        ('<div class="book-chart">' + SPEC.format("{}") + "</div>", "no static picture"),
    ],
)
def test_a_fault_of_a_page_is_told(tmp_path, body, said):
    found = problems(tmp_path, body)
    assert len(found) == 1
    assert found[0].startswith("index.html: ")
    assert said in found[0]


def test_a_style_or_font_from_another_host_is_told(tmp_path):
    sheet = '<link rel="stylesheet" href="https://doi.org/x.css">'
    assert problems(tmp_path, "", sheet) == ("index.html: loads https://doi.org/x.css",)
    (tmp_path / "a.css").write_text("@font-face { src: url(https://doi.org/f.woff2) } p { background: url(local.png) }")
    assert problems(tmp_path, "") == ("a.css: loads https://doi.org/f.woff2",)


def test_the_weight_of_a_page_counts_what_it_loads_once(tmp_path):
    (tmp_path / "a.js").write_text("x" * 1000)
    problems(tmp_path, '<script src="a.js"></script>' * 2)
    page = (tmp_path / "index.html").stat().st_size
    assert site.check(tmp_path).weights["index.html"] == page + 1000


def test_a_site_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(BookError, match="no site at"):
        site.check(tmp_path)


def test_the_server_gives_the_pages_on_this_machine_only(tmp_path):
    (tmp_path / "index.html").write_text("here")
    with site.server(tmp_path) as address:
        assert address.startswith("http://127.0.0.1:")
        assert urllib.request.urlopen(address).read() == b"here"


def test_a_port_that_is_taken_is_told_with_what_to_do(tmp_path, monkeypatch, capsys):
    html = tmp_path / "_build" / "html"
    html.mkdir(parents=True)
    (html / "index.html").write_text("here")
    monkeypatch.setattr(places, "ROOT", tmp_path, raising=False)
    with site.server(html) as address:
        port = int(address.rpartition(":")[2])
        assert cli.main(["serve", "--port", str(port)]) == 1
    told = capsys.readouterr().err
    assert f"port {port} is taken" in told and f"{address}/" in told
    other = port + 1 if port < 65535 else 8000
    assert f"entity-circuits serve --port {other}" in told and f"make serve PORT={other}" in told


def test_a_port_for_the_administrator_alone_is_told_with_another_one():
    told = site._no_port(80, PermissionError(errno.EACCES, "Permission denied"))
    assert "below 1024" in told and "--port 8000" in told


def answer(address: str, path: str = "/", host: str | None = None) -> int:
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    return connection.getresponse().status


def test_the_server_answers_to_the_names_of_this_machine_alone(tmp_path):
    (tmp_path / "index.html").write_text("here")
    with site.server(tmp_path) as address:
        port = address.rpartition(":")[2]
        good = [f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"]
        bad = ["evil.example", f"evil.example:{port}", "localhost", "localhost:1", "", f"localhost:{port}.evil.example"]
        assert {answer(address, host=host) for host in good} == {200}
        assert {answer(address, host=host) for host in bad} == {403}


def test_the_server_follows_no_link_out_of_the_site_and_lists_no_folder(tmp_path):
    html, secret = tmp_path / "html", tmp_path / "secret.html"
    (html / "pages").mkdir(parents=True)
    (html / "linked").mkdir()
    secret.write_text("secret")
    (html / "index.html").write_text("here")
    (html / "in.html").symlink_to("index.html")
    (html / "out.html").symlink_to(secret)
    (html / "folder").symlink_to(tmp_path)
    (html / "linked" / "index.html").symlink_to(secret)
    with site.server(html) as address:
        assert [answer(address, path) for path in ("/", "/in.html")] == [200, 200]
        for path in (
            "/out.html",
            "/folder/secret.html",
            "/folder/",
            "/linked/",
            "/pages/",
            "/../secret.html",
            "/nowhere",
        ):
            assert answer(address, path) == 404, path


HOSTILE = [
    "`",
    "``` <script>",
    "<script>alert(1)</script>",
    "<!--<script>",
    "a | b",
    "$x$ {{y}} [z](javascript:1)",
    "a\nb",
]


def parsed(text: str) -> nodes.document:
    settings = {"myst_enable_extensions": ["colon_fence", "dollarmath", "linkify", "tasklist"], "report_level": 5}
    return publish_doctree(text, parser=MystParser(), settings_overrides=settings)


@pytest.mark.parametrize("words", HOSTILE)
def test_no_text_of_a_run_becomes_markup_of_the_status_page(words):
    machine = {"processor": words, "cores": 1, "memory": 1, "system": words, "python": "3.11"}
    run = book.Run("01_one", "", 1.0, 1, {"model": words, words: 1}, {"model": words}, machine, {words: words})
    page = parsed("\n".join(sphinx_ext._table([run])))
    markup = nodes.raw, nodes.math, nodes.math_block, nodes.comment, nodes.reference, nodes.emphasis, nodes.image
    assert not [node for kind in markup for node in page.findall(kind)]
    assert page.astext().count(" ".join(words.split())) >= 4


@pytest.mark.parametrize("words", HOSTILE)
def test_no_text_of_a_chart_becomes_markup_of_its_page(words):
    spec = {**Data.content, "description": words, "data": {"values": [{"a": 3, "label": words}]}}
    data = type("Hostile", (), {"mime_type": charts.MIME, "content": spec})
    before, _, after = sphinx_ext.VegaLiteMime.handle_mime(Renderer(), data, False)
    page = BeautifulSoup(f"{before.astext()}{after.astext()}<p>the rest</p>", "html.parser")
    assert page.select_one("p").get_text() == "the rest"
    assert json.loads(page.select_one("script").string) == spec
    assert after.astext().count("<") == 3  # of the script, its end, and that of what holds it


def test_a_path_of_the_builder_on_a_page_is_told(tmp_path):
    html = tmp_path / "_build" / "html"
    html.mkdir(parents=True)
    assert problems(html, f"<pre>ROOT = PosixPath('{tmp_path}/x')</pre>")[0].startswith("index.html: shows a path")


class Renderer:
    """What the MIME plugin asks of myst-nb: a place to put a file."""

    def __init__(self):
        self.files = {}

    def write_file(self, path, content, overwrite):
        self.files[path[-1]] = content
        return path[-1]


class Data:
    mime_type = charts.MIME
    content = {  # noqa: RUF012
        "$schema": "https://vega.github.io/schema/vega-lite/v6.4.1.json",
        "description": "One bar </script> of 3.",
        "data": {"values": [{"a": 3}]},
        "mark": "bar",
        "encoding": {"x": {"field": "a", "type": "quantitative"}},
    }


def test_a_chart_becomes_a_picture_with_words_and_a_specification_that_cannot_end_its_script():
    renderer = Renderer()
    before, picture, after = sphinx_ext.VegaLiteMime.handle_mime(renderer, Data, False)
    assert isinstance(picture, nodes.image)
    assert picture["alt"] == Data.content["description"]
    assert renderer.files[picture["uri"]].startswith(b"<svg")
    assert before.astext() == '<div class="book-chart">'
    assert after.astext().count("</script>") == 1


def test_the_data_of_a_chart_name_their_columns_once_and_nothing_of_them_is_lost():
    rows = [{"head": "L1H2", "score": 0.25}, {"head": "L1H3", "score": None}]
    fine = sphinx_ext.packed({"datasets": {"fine": [{"score": 0.123456789012}]}})
    assert fine["datasets"]["fine"]["rows"] == [[pytest.approx(0.123456789012, abs=1e-7)]]
    assert len(json.dumps(fine["datasets"]["fine"]["rows"])) < len("[[0.1234567890]]")
    spec = {"mark": "bar", "datasets": {"same": rows, "ragged": [{"a": 1}, {"b": 2}], "plain": [1, 2], "none": []}}
    small = sphinx_ext.packed(spec)
    assert small["datasets"]["same"] == {"columns": ["head", "score"], "rows": [["L1H2", 0.25], ["L1H3", None]]}
    assert {**small, "datasets": {**small["datasets"], "same": rows}} == spec
    assert sphinx_ext.packed({"mark": "bar"}) == {"mark": "bar"}


def test_other_outputs_are_left_to_the_book_engine():
    class Plain:
        mime_type = "text/plain"

    assert sphinx_ext.VegaLiteMime.handle_mime(Renderer(), Plain, False) is None


# Numbers quoted from the chapters


def test_the_claims_of_the_introduction_are_those_of_the_chapter_that_sums_up(house):
    assert sphinx_ext.claims_lines(house) == ["The chapter that sums up has not been executed."]
    add(house, "07_sum", ("1", ["reads-findings"]))
    assert sphinx_ext.claims_lines(house) == ["The chapter that sums up has not been executed."]
    found = {"accuracy/base": findings.Reported("accuracy/base", 0.45, 0.41, 0.49, 490)}
    found["accuracy/chance"] = findings.Reported("accuracy/chance", 0.14)
    findings.file(house).parent.mkdir(parents=True)
    findings.file(house).write_text(findings.Gathered(found).to_json())
    lines = sphinx_ext.claims_lines(house)
    assert lines[0].endswith("told in {doc}`/chapters/07_sum`.")
    assert lines[2:] == claims.markdown(claims.of(claims.table(found), "paper")).splitlines()
    assert "0.45 [0.41, 0.49], n = 490 | **replicates** |" in lines[4]


def test_pages_quote_only_findings_that_a_claim_knows():
    known = {key for claim in claims.CLAIMS for key in claim.keys}
    pages = [path.read_text("utf-8") for path in (places.ROOT / "book").glob("*.md")]
    quoted = {key for page in pages for key in re.findall(r"\{finding\}`([^`]+)`", page)}
    assert quoted <= known
    assert any("{book-claims}" in page for page in pages)


def test_a_number_is_quoted_as_the_chapters_keep_it_and_goes_through_sphinx(house):
    from sphinx.application import Sphinx

    (house / "conf.py").write_text(
        'extensions = ["myst_parser", "sphinx.ext.autodoc", "entity_book.build.sphinx_ext"]\n'
        'exclude_patterns = ["lib"]\n'
    )
    (house / "index.md").write_text("# Title\n\nIt is {finding}`x` and {finding}`y`.\n\n```{book-claims}\n```\n")
    findings.file(house).parent.mkdir(parents=True)
    findings.file(house).write_text(findings.Gathered({"x": findings.Reported("x", 0.5, 0.4, 0.6, 7)}).to_json())
    out = house / "out"
    app = Sphinx(str(house), str(house), str(out), str(out / "trees"), "text", status=None, warningiserror=True)
    app.build()
    text = (out / "index.txt").read_text("utf-8")
    assert "It is 0.50 [0.40, 0.60], n = 7 and not tested here." in text
    assert "has not been executed" in text


def test_a_chapter_says_what_it_took_where_that_is_known_and_an_estimate_where_it_is_not(house, pretend):
    from sphinx.application import Sphinx

    (house / "conf.py").write_text(
        'extensions = ["myst_parser", "sphinx.ext.autodoc", "entity_book.build.sphinx_ext"]\n'
        'exclude_patterns = ["lib"]\n'
    )
    (house / "index.md").write_text("# Title\n\n15 minutes to read; {took}`some minutes to run`\n")
    ran = book.Run("index", "", 174.0, 1, {}, machine={"cores": 2})

    def text(run) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sphinx_ext.executed, "run", lambda root, name: run if name == "index" else None)
            app = Sphinx(
                str(house), str(house), str(house / "out"), str(house / "trees"), "text", status=None, freshenv=True
            )
            app.build(force_all=True)
        return (house / "out" / "index.txt").read_text("utf-8")

    assert "15 minutes to read; 2.9 min to run on 2 cores, when this page was made" in text(ran)
    assert "15 minutes to read; some minutes to run" in text(None)


def test_every_page_has_one_description_where_a_notebook_keeps_it():
    for name in book.chapters():
        text = (places.ROOT / "chapters" / f"{name}.ipynb").read_text("utf-8")
        kept = json.loads(text)["metadata"].get("myst", {}).get("html_meta", {}).get("description", "")
        assert len(kept) > 40
        assert "eval-rst" not in text  # a directive, which JupyterLab shows as unknown
    for page in (places.ROOT / "book").glob("*.md"):
        assert "description: " in page.read_text("utf-8").partition("\n---\n")[0], page.name


def test_every_page_of_the_contents_is_there_and_every_prose_page_is_in_the_contents():
    import yaml

    contents = yaml.safe_load((places.ROOT / "_toc.yml").read_text("utf-8"))
    listed = {contents["root"]} | {entry["file"] for part in contents["parts"] for entry in part["chapters"]}
    pages = {f"book/{path.stem}" for path in (places.ROOT / "book").glob("*.md")}
    assert {name for name in listed if name.startswith("book/")} == pages


# What is done to the pages after Sphinx


ICONS = (
    "(()=>{var core=function(){return[1]},s="
    '{"sun":[512,512,[9728],"e28f","M1 2"],moon:[384,512,[127769,"night"],"f186",'
    '["M3 4","M5 6"]],"list-ul":[512,512,[],"f0ca","M7 8"]};core(s)})();'
)


def test_of_the_icons_of_the_theme_those_stay_that_are_used_by_whatever_name():
    assert '"sun"' in (small := finish.icons(ICONS, {"sun"})) and "moon" not in small and "list-ul" not in small
    small = finish.icons(ICONS, {"night", "list-ul"})
    assert "moon:[384" in small and "sun" not in small
    assert small.endswith('"list-ul":[512,512,[],"f0ca","M7 8"]};core(s)})();')
    with pytest.raises(ValueError, match="no longer keeps its icons"):
        finish.icons("function(){}", {"sun"})


def test_the_theme_that_is_installed_keeps_its_icons_where_they_are_looked_for():
    theme = resources.files("pydata_sphinx_theme")
    whole = (theme / "theme/pydata_sphinx_theme/static/scripts/fontawesome.js").read_text("utf-8")
    small = finish.icons(whole, {"sun", "moon", "magnifying-glass"})
    assert len(small) < len(whole) / 10
    assert all(f'"f{code}"' in small for code in ("185", "186", "002"))


def test_a_page_is_in_sound_markup_and_without_what_it_does_not_use():
    sig = '<dl>\n<dd><em class="sig-param"><span class="n"><span class="pre">x</span></span></em>,</dd>\n</dl>'
    made = finish.page(f'<dt class="sig sig-object py"><span class="p">(</span>{sig}<span class="p">)</span></dt>')
    assert made == (
        '<dt class="sig sig-object py">(<div class="sig-list">\n<div><em class="sig-param">x</em>,</div>\n</div>)</dt>'
    )
    link = '<a class="reference internal" href="../a.html#b.c" title="{}">c</a>'
    assert finish.page(link.format("b.c")) == link.format("b.c").replace(' title="b.c"', "")
    assert finish.page(link.format("C")) == link.format("C")
    listed = "<dl>\n<dd>words</dd>\n</dl>"
    assert finish.page(listed) == listed
    assert (
        finish.page('<pre><span class="n">x</span><span class="k">if</span></pre>')
        == '<pre>x<span class="k">if</span></pre>'
    )
    search = '<script src="../searchindex.js"></script>'
    assert finish.page(search) == "" and finish.page('<div id="search-results"></div>' + search).endswith(search)
    head = '<title>A &amp; B</title><meta content="What it is." name="description" />'
    assert '<meta property="og:description" content="What it is." />' in finish.page(head)
    assert finish.page(finish.page(head)) == finish.page(head)
    cards = '<link rel="stylesheet" href="../_static/sphinx-design.min.css?v=1" />'
    assert finish.page(cards) == "" and finish.page(cards + '<div class="a sd-card"></div>').startswith(cards)
    image = '<img alt="One bar." class="book-chart-static" src="c.svg" />'
    assert finish.page(image) == image.replace("<img", '<img loading="lazy"')
    assert finish.page(finish.page(image)).count("lazy") == 1


def test_a_page_without_a_number_counts_its_figures_and_exercises_from_one():
    given = {
        "chapters/01": {"exercise": {"one": (1, 1)}},
        "chapters/a2": {"figure": {"four": (4,), "five": (5,)}, "exercise": {"seven": (7,)}},
    }
    env = SimpleNamespace(toc_fignumbers=given, toc_secnumbers={"chapters/01": {"": (1,)}, "chapters/a2": {}})
    numbers.per_page(None, env)
    assert given["chapters/01"] == {"exercise": {"one": (1, 1)}}
    assert given["chapters/a2"] == {"figure": {"four": (1,), "five": (2,)}, "exercise": {"seven": (1,)}}
