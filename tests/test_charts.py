"""Charts: what is stored of them, who can read them."""

import base64
import itertools
import json
import subprocess
import sys

import altair as alt
import numpy as np
import pytest
from entity_book.figures import charts

DATA = alt.Data(values=[{"x": 1, "y": 2, "group": "A"}, {"x": 2, "y": 3, "group": "B"}])
LIGHT, DARK = "#ffffff", "#121212"

# Machado, Oliveira and Fernandes (2009), severity 1, applied to linear RGB.
SIGHTS = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    low, high = sorted(linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (one, other))
    return float((high + 0.05) / (low + 0.05))


def lab(colour: str, sight: str) -> np.ndarray:
    seen = np.clip(np.array(SIGHTS[sight]) @ linear(colour), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    f = np.where((t := xyz / [0.9505, 1, 1.089]) > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def chart(**properties) -> alt.Chart:
    return alt.Chart(DATA).mark_point().encode(x="x:Q", y="y:Q", color="group:N").properties(**properties)


@pytest.fixture
def enabled():
    before_renderer, before_theme = alt.renderers.active, alt.theme.active
    charts.enable()
    yield
    alt.renderers.enable(before_renderer)
    alt.theme.enable(before_theme)


def test_a_shown_chart_is_stored_as_specification_picture_and_words(enabled):
    shown, _ = chart(description="Two points, B above A.")._repr_mimebundle_()
    assert set(shown) == {charts.MIME, "image/png", "text/plain"}
    assert shown["text/plain"] == "Two points, B above A."
    assert base64.b64decode(shown["image/png"]).startswith(b"\x89PNG")
    assert shown[charts.MIME]["$schema"].split("/v")[-1].startswith(charts.VEGA_LITE)


def test_a_notebook_shows_the_picture_as_large_as_the_chart_and_not_as_large_as_its_pixels(enabled):
    shown, how = chart(description="Two points.", width=300, height=200)._repr_mimebundle_()
    size = how["image/png"]
    assert 300 < size["width"] < 500 and 200 < size["height"] < 350
    pixels = base64.b64decode(shown["image/png"])[16:24]
    assert int.from_bytes(pixels[:4], "big") == pytest.approx(charts.SCALE * size["width"], abs=1)
    assert int.from_bytes(pixels[4:], "big") == pytest.approx(charts.SCALE * size["height"], abs=1)


@pytest.mark.parametrize("words", [{}, {"description": " "}])
def test_a_chart_without_words_is_refused(enabled, words):
    with pytest.raises(ValueError, match="has no description"):
        chart(**words)._repr_mimebundle_()


def test_importing_the_module_changes_nothing_in_altair():
    script = (
        "import altair as alt; before = alt.renderers.active, alt.theme.active\n"
        "import entity_book.figures.charts\n"
        "assert (alt.renderers.active, alt.theme.active) == before"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_same_chart_gives_the_same_bytes(enabled):
    spec = chart(description="Two points.").to_dict()
    assert charts.picture(spec, "svg") == charts.picture(json.loads(json.dumps(spec)), "svg")
    assert charts.picture(spec, "png") == charts.picture(spec, "png")


def test_the_static_picture_brings_its_own_white_ground(enabled):
    assert b'fill="white"' in charts.picture(chart(description="Two points.").to_dict(), "svg")


def test_no_text_of_the_theme_is_smaller_than_twelve_pixels():
    def sizes(node):
        for key, value in node.items():
            if isinstance(value, dict):
                yield from sizes(value)
            elif "fontsize" in key.lower():
                yield value

    found = list(sizes(charts.theme()))
    assert len(found) >= 8
    assert min(found) >= 12


def test_the_theme_leaves_the_colours_of_text_and_axes_to_the_page():
    def keys(node):
        for key, value in node.items():
            yield key
            if isinstance(value, dict):
                yield from keys(value)

    config = {name: part for name, part in charts.theme()["config"].items() if isinstance(part, dict)}
    for part in ("axis", "legend", "header", "title", "text"):
        assert not [key for key in keys(config[part]) if "color" in key.lower()]
    assert charts.theme()["config"]["background"] == "transparent"


@pytest.mark.parametrize("page", [LIGHT, DARK])
@pytest.mark.parametrize("colour", [*charts.PALETTE, charts.NEUTRAL])
def test_every_colour_stands_out_from_the_page(colour, page):
    assert contrast(colour, page) >= 3


@pytest.mark.parametrize("sight", SIGHTS)
def test_the_colours_differ_for_everybody(sight):
    distances = [np.linalg.norm(lab(a, sight) - lab(b, sight)) for a, b in itertools.combinations(charts.PALETTE, 2)]
    assert min(distances) > 15


def test_the_script_defines_nothing_outside_its_function():
    script = charts.script()
    assert script.startswith("(function(){")
    assert script.endswith("})();\n")
    assert "vegaEmbed" in script
