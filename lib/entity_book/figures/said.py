"""What stands in words under the figures of the circuit: the heads at both ends of a map, the heads of the groups."""

import pandas as pd
from entity_circuits.heads import LETTERS, Circuit
from entity_circuits.statistics import spoken


def ends(heads: pd.DataFrame, letter: str) -> dict[str, str]:
    """The most helpful head of a map and the one that does most harm, with their scores, for `notebooks.quote`.

    Harm counts where its interval lies above zero.

    Args:
        heads: rows with `head`, `score`, `low` and `high`, as `looking.by_head` has them.
        letter: of the group; it ends the names, `help_a` and `harm_a`.

    >>> table = pd.DataFrame({"head": ["L1H0", "L2H3"], "score": [-0.2, 0.1], "low": [-0.3, 0.0], "high": [-0.1, 0.2]})
    >>> ends(table, "A")
    {'help_a': 'L1H0, -0.20 [-0.30, -0.10]', 'harm_a': 'none surely'}
    """
    columns = ["head", "score", "low", "high"]
    known = heads.reindex(columns=columns).astype(dict.fromkeys(columns[1:], float)).dropna(subset=["score"])
    return {
        f"help_{letter.lower()}": _told(known.nsmallest(1, "score"), "no head has a path"),
        f"harm_{letter.lower()}": _told(known[known["low"] > 0].nlargest(1, "score"), "none surely"),
    }


def groups(circuit: Circuit) -> dict[str, str]:
    """The heads of each group, for `notebooks.quote`: where they lie as `layers_a`, their names as `heads_a`.

    Args:
        circuit: as it was found.

    >>> from entity_circuits.heads import Head
    >>> groups(Circuit({"value_fetcher": (Head(3, 1), Head(2, 0))}))
    {'layers_a': '2 heads in layers 2 to 3', 'heads_a': 'L3H1, L2H0'}
    """
    told = {}
    for group, heads in circuit.groups.items():
        letter, layers = LETTERS[group].lower(), sorted({head.layer for head in heads})
        number = f"{len(heads)} head{'s' * (len(heads) != 1)}"
        where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}" if layers else ""
        told[f"layers_{letter}"] = f"{number} in {where}" if layers else "no head"
        told[f"heads_{letter}"] = ", ".join(map(str, heads)) or "none"
    return told


def steps(table: pd.DataFrame) -> dict[str, str]:
    """The probability of the right object in each step of `looking.step_by_step`, for `notebooks.quote`.

    A group without heads has a dash.

    Args:
        table: a row a step, with `step`, `right` and `p`.

    >>> table = {"step": ["nothing", "A"], "right": [[False, True]] * 2, "p": [[0.1, 0.9], [0.4, 0.6]]}
    >>> told = steps(pd.DataFrame(table))
    >>> told["step_nothing"], told["step_a"], told["step_d"]
    ('0.90', '0.60', '–')
    """
    told = {f"step_{letter.lower()}": "–" for letter in LETTERS.values()}
    rows = table.to_dict("records")
    return told | {f"step_{row['step'].lower()}": f"{row['p'][row['right'].index(True)]:.2f}" for row in rows}


def _told(table: pd.DataFrame, none: str) -> str:
    rows = table.to_dict("records")
    return f"{rows[0]['head']}, {spoken(rows[0]['score'], rows[0]['low'], rows[0]['high'], '+.2f')}" if rows else none
