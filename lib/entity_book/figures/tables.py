"""How a table is shown: names in words, a number and its interval in one cell, a card for each row on a phone.

`charts.enable()` calls `enable()`; from then on every DataFrame that ends a cell is shown so, beside its plain text.
"""

import html as markup
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from entity_circuits import statistics

WORDS = {
    "n": "prompts",
    "p": "p",
    "p_holm": "p (Holm)",
    "layer_p": "p, same layers",
    "layer_chance": "chance, same layers",
    "logp_change": "change of log p",
    "top1": "top-1",
    "top1_change": "change of top-1",
    "choice_change": "change of choice",
    "choice_n": "prompts of choice",
    "spearman": "rank correlation",
    "dtype": "number format",
    "gflops": "GFLOP/s",
    "ms_per_head_and_example": "ms per head and prompt",
    "replay_s": "replay (s)",
    "staged_s": "staged (s)",
    "definition_s": "definition (s)",
    "replay_s_per_head": "replay (s per head)",
    "definition_s_per_head": "definition (s per head)",
    "replay_gflop_per_head": "replay (GFLOP per head)",
    "definition_gflop_per_head": "definition (GFLOP per head)",
    "seconds_per_100": "seconds per 100 prompts",
    "of_whole": "share of the whole model",
}
"""What a column is called where its own name, with spaces for underscores, would not say it."""

CSV = "text/csv"
"""The media type in which a notebook keeps all digits of a table, for those who want its numbers."""

NONE = "–"
"""What stands for a missing value."""

ROWS = 60
"""The rows that are shown of a longer table; below it stands how many there are."""

_IDENTIFIER = re.compile(r"[a-z]+(?:_[a-z0-9]+)+")
_MINUS = re.compile(r"(?<![\w.)\]-])-(?=\.?\d)")
_NUMBER = re.compile(r"[−+]?\.?\d[^a-z]*$")
_CODE = re.compile(r"`([^`<]+)`")
_HYPHENED = re.compile(r"[\w.]+(?:-[\w.]+)+(?![^<]*>)")
_INTERVAL = re.compile(r"(?<=[\d%]) (\[[^\]<]+\])")

_Column = tuple[str, str, list[str]]
"""A column to be shown: its label, the attribute that its cells have, the cells."""


def enable() -> None:
    """Show every DataFrame of this session as `html` writes it. Outside a notebook it does nothing at all."""
    from IPython import get_ipython

    if (shell := get_ipython()) is not None:
        from IPython.core.formatters import BaseFormatter

        formatters = shell.display_formatter.formatters
        formatters["text/html"].for_type(pd.DataFrame, html)
        # Without a method of its own to look for, it would give the `repr` of everything else.
        formatters[CSV] = BaseFormatter(parent=shell.display_formatter, format_type=CSV, print_method="_repr_csv_")
        formatters[CSV].for_type(pd.DataFrame, as_csv)


def as_csv(table: pd.DataFrame) -> str:
    """A table as the text of a CSV file, with all digits; an index that says nothing is left out.

    >>> as_csv(pd.DataFrame({"share": [0.123456789]}))
    'share\\n0.123456789\\n'
    """
    return str(table.to_csv(index=bool(_row_heads(table)[0]), lineterminator="\n"))


def html(table: pd.DataFrame) -> str:
    """A table as HTML of the class `book-table`, with the name of its column at every cell.

    Numbers and their bounds (`x`, `x_low`, `x_high`, or `low` and `high` right after a number) share a cell. The first
    of several levels of an index heads its rows as a group. An unnamed index of numbers is left out.

    >>> shares = html(pd.DataFrame({"share": [0.5], "share_low": [0.4], "share_high": [0.6]}))
    >>> "0.50 <span>[0.40, 0.60]</span>" in shares
    True
    """
    if not table.columns.is_unique:
        return table.to_html()  # which of two columns of one name is meant cannot be said here
    if not len(table):
        return '<p class="book-table-none">No rows.</p>'
    shown = table.head(ROWS)
    heads, grouped = _row_heads(shown)
    columns = merged(shown)
    if not heads and columns and not pd.api.types.is_float_dtype(shown[columns[0][0]]):
        (name, *_), *columns = columns  # the first column names the rows then
        heads = [(_label(name), [_text(value) for value in shown[name]])]
    labels = [_label(name) for name, *_ in columns]
    cells = [_cells(shown, *column) for column in columns]
    kinds = [' class="num"' * all(_NUMBER.match(cell) or cell == NONE for cell in column) for column in cells]
    body = "".join(_bodies(heads, grouped, [*zip(labels, kinds, cells, strict=True)]))
    left = f"<caption>The first {ROWS} of {len(table)} rows.</caption>" if len(table) > ROWS else ""
    own = heads[grouped:]
    lines = "".join(
        _head_lines(table, [*zip((name for name, *_ in columns), kinds, strict=True)], [name for name, _ in own])
    )
    return f'<table class="book-table">{left}<thead>{lines}</thead>{body}</table>'


def merged(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The columns to be shown, in order: `(name,)`, or `(name, low, high)` for a number with its bounds.

    >>> merged(pd.DataFrame(columns=["head", "score", "low", "high"]))
    [('head',), ('score', 'low', 'high')]
    """
    names = list(table.columns)
    found: list[tuple[Any, ...]] = []
    bounds: set[Any] = set()
    for place, name in enumerate(names):
        own = (f"{name}_low", f"{name}_high")
        if all(end in names for end in own):
            bounds |= set(own)
            found.append((name, *own))
        elif names[place + 1 : place + 3] == ["low", "high"]:
            bounds |= {"low", "high"}
            found.append((name, "low", "high"))
        else:
            found.append((name,))
    return [column for column in found if column[0] not in bounds]


def numbers(values: Sequence[Any], name: Any = "") -> list[str]:
    """The numbers of a column as text: two decimals, three where all are smaller than 0.1, small ones as they are.

    >>> numbers([0.5, -0.25, None]), numbers([0.034, 0.02]), numbers([3.0, 14.0]), numbers([0.000008])
    (['0.50', '−0.25', '–'], ['0.034', '0.020'], ['3', '14'], ['8 × 10⁻⁶'])
    """
    form = _form(values, probability=name in ("p", "p_holm", "layer_p"))
    return [_number(value, form) for value in values]


def _form(values: Sequence[Any], probability: bool = False) -> str:
    known = np.array([value for value in values if not pd.isna(value)], dtype=float)
    size = np.abs(known[np.isfinite(known)])
    if size.size and size.max() > 1 and (size == size.round()).all():
        return ".0f"
    small = size.size and size.max() < 0.1 and not np.allclose(size, size.round(2), rtol=0, atol=1e-12)
    return ".3f" if small or probability else ".2f"


def _number(value: Any, form: str) -> str:
    if pd.isna(value):
        return NONE
    text = statistics.spoken(value, None, None, form)
    if value and not text.strip("0."):
        digits, _, power = f"{value:.0e}".partition("e")
        raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        text = f"{value:.4f}" if abs(value) >= 1e-4 else f"{digits} × 10{raised}"
    return _signed(text)


def _cells(table: pd.DataFrame, name: Any, *bounds: Any) -> list[str]:
    """The cells of a column as text, with the bounds of its numbers if there are any."""
    values = table[name]
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        return [_text(value) for value in values]
    if pd.api.types.is_integer_dtype(values):
        return [NONE if pd.isna(value) else _signed(str(value)) for value in values]
    if not bounds:
        return numbers(list(values), name)
    form = _form([*values, *table[bounds[0]], *table[bounds[1]]])
    rows = zip(
        values, *(table[bound].astype(object).where(table[bound].notna(), None) for bound in bounds), strict=True
    )
    return [NONE if pd.isna(value) else _signed(statistics.spoken(value, low, high, form)) for value, low, high in rows]


def _text(value: Any) -> str:
    """One value that is no number, in words."""
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(_text, value))
    if pd.isna(value):
        return NONE
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        return numbers([value])[0]
    text = str(value)
    return _signed(text.replace("_", " ") if _IDENTIFIER.fullmatch(text) else text)


def _signed(text: str) -> str:
    """With a minus sign in place of a hyphen before a number."""
    return _MINUS.sub("−", text)


def _label(name: Any) -> str:
    """The name of a column in words; of several levels, from the outer one inwards."""
    if isinstance(name, tuple):
        return ", ".join(_label(part) for part in name if part != "")
    if name is None:
        return ""
    return WORDS.get(name, _text(name)) if isinstance(name, str) else str(name)


def _row_heads(table: pd.DataFrame) -> tuple[list[tuple[str, list[str]]], bool]:
    """The levels of the index that are shown, each a name and its values, and whether the first one forms groups."""
    index = table.index
    if index.nlevels == 1 and index.name is None and pd.api.types.is_integer_dtype(index):
        return [], False
    levels = [index.get_level_values(level) for level in range(index.nlevels)]
    heads = [(_label(level.name), [_text(value) for value in level]) for level in levels]
    first = heads[0][1]
    return heads, len(heads) > 1 and sum(1 for _ in _runs(first)) < len(first)


def _runs(values: Sequence[str]) -> Iterator[tuple[str, range]]:
    """The same value in a row, with the places where it stands."""
    start = 0
    for place in range(1, len(values) + 1):
        if place == len(values) or values[place] != values[start]:
            yield values[start], range(start, place)
            start = place


def _bodies(heads: list[tuple[str, list[str]]], grouped: bool, columns: list[_Column]) -> Iterator[str]:
    """The rows, those of a group below its name."""
    count = len(columns[0][-1] if columns else heads[0][1])
    own = heads[grouped:]
    for name, places in _runs(heads[0][1]) if grouped else [("", range(count))]:
        lines = ["".join(_row(own, columns, place)) for place in places]
        if grouped:
            title = f"{heads[0][0]}: {name}" if heads[0][0] else name
            lines.insert(0, f'<th colspan="{len(own) + len(columns)}" scope="rowgroup">{_safe(title)}</th>')
        yield "<tbody>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</tbody>"


def _row(heads: list[tuple[str, list[str]]], columns: list[_Column], place: int) -> Iterator[str]:
    for label, column in heads:
        yield f'<th scope="row"{_named(label)}>{_safe(column[place])}</th>'
    for label, kind, column in columns:
        yield f"<td{kind}{_named(label)}>{_safe(column[place])}</td>"


def _head_lines(table: pd.DataFrame, columns: list[tuple[Any, str]], own: list[str]) -> Iterator[str]:
    """The lines above the rows: one for each level of the columns, or one for what they are together."""
    levels = table.columns.nlevels
    if levels == 1 and (together := _label(table.columns.name)):
        yield f'<tr>{"<td></td>" * len(own)}<th colspan="{len(columns)}" scope="colgroup">{_safe(together)}</th></tr>'
    for level in range(levels - 1):
        runs = _runs([_label(name[level]) for name, _ in columns])
        line = "".join(f'<th colspan="{len(at)}" scope="colgroup">{_safe(name)}</th>' for name, at in runs)
        yield f"<tr>{'<td></td>' * len(own)}{line}</tr>"
    names = [(name, "") for name in own]
    names += [(_label(name if levels == 1 else name[-1]), kind) for name, kind in columns]
    cells = (f'<th scope="col"{kind}>{_safe(name)}</th>' if name else "<td></td>" for name, kind in names)
    yield f"<tr>{''.join(cells)}</tr>"


def _named(label: str) -> str:
    return f' data-label="{markup.escape(label)}"' if label else ""


def _safe(text: str) -> str:
    """Any text as markup: names in backticks as code; no line ends within an interval or at a hyphen."""
    text = markup.escape(text).replace("\n", " ")
    text = _CODE.sub(r"<code>\1</code>", text)
    return _INTERVAL.sub(r" <span>\1</span>", _HYPHENED.sub(r"<span>\g<0></span>", text))
