"""Checks of chapter 7: a rule for verdicts, attacks on three others, and what luck would do."""

import math

from scipy import stats

from .words import called, number, written

NAN = math.nan
COURT = (
    ((0.20, 0.15, 0.25, 0.0), "replicates", "the whole interval lies above the floor"),
    ((0.20, -0.05, 0.45, 0.0), "partly", "the value is above the floor, and its interval contains the floor"),
    ((-0.20, -0.30, -0.10, 0.0), "does not", "the whole interval lies on the other side"),
    ((-0.05, -0.20, 0.10, 0.0), "does not", "the value itself is not above the floor"),
    ((NAN, NAN, NAN, 0.0), "could not be tested", "there is no number"),
    ((0.20, NAN, NAN, 0.0), "could not be tested", "one context gives no interval, and without one nothing is known"),
    ((0.16, 0.14, 0.20, 0.14), "partly", "the interval reaches down to the floor, which is not 0"),
    ((0.30, 0.20, 0.40, 0.25), "partly", "the floor lies inside the interval: it is not 0 here"),
    ((0.30, 0.20, 0.40, 0.14), "replicates", "the whole interval lies above the floor of 0.14"),
    ((0.10, 0.05, 0.12, 0.14), "does not", "an effect above 0 that lies below what comes out without any effect"),
)


def rule(verdict, cases=slice(0, 6)):
    """A rule on cases that a court has seen."""
    for given, right, why in COURT[cases]:
        found = called(verdict, *given)
        value, low, high, floor = given
        assert found == right, (
            f"value {value} [{low}, {high}], floor {floor}: {right!r}, since {why}; your rule says {found!r}"
        )


def _by_value(value, low, high, floor):
    return "replicates" if value > floor else "does not"


def _by_upper_end(value, low, high, floor):
    return "replicates" if high > floor else "does not"


def _above_zero(value, low, high, floor):
    return "replicates" if low > 0 else "does not"


RULES = {"by_value": _by_value, "by_upper_end": _by_upper_end, "above_zero": _above_zero}


def attack(attacks, names=("by_value", "by_upper_end", "above_zero")):
    """For each bad rule a case in which it says "replicates" and should not; of the last two, a case that the first gets right."""
    assert isinstance(attacks, dict) and ... not in attacks, (
        "`attacks` is not written yet: a dict with a case for each rule"
    )
    for name in names:
        case = written(attacks.get(name), f'attacks["{name}"]')
        assert len(case) == 4, f"{name}: a case is (value, low, high, floor)"
        value, low, high, floor = (number(one, name) for one in case)
        assert low <= value <= high, f"{name}: the value {value} has to lie in its interval [{low}, {high}]"
        said = RULES[name](*case)
        assert said == "replicates", f"{name} says {said!r} of {case}: the case has to fool it into 'replicates'"
        assert not low > floor, f"{name}: in {case} the whole interval lies above the floor, so 'replicates' is right"
        if name == "by_upper_end":
            assert value < floor, f"{name}: take a case that even the rule by value gets right: a value below the floor"
        if name == "above_zero":
            assert floor > 0, f"{name}: with a floor of 0 this rule is right; what does it forget?"


def luck(by_luck, cases=((1, 18), (3, 18))):
    """The chance that at least k of n claims without any effect replicate."""
    for k, n in cases:
        found, right = number(called(by_luck, k, n), "by_luck"), float(stats.binom.sf(k - 1, n, 0.025))
        assert abs(found - float(stats.binom.sf(k - 1, n, 0.05))) > 1e-9, (
            "a claim has a direction: only one end of the 95% interval counts, so 0.025"
        )
        assert abs(found - float(stats.binom.pmf(k, n, 0.025))) > 1e-9, f"that is exactly {k}; at least {k} is asked"
        assert abs(found - float(stats.binom.sf(k, n, 0.025))) > 1e-9, f"that is more than {k}; at least {k} is asked"
        assert abs(found - right) < 1e-9, f"at least {k} of {n}, each with 0.025: {right:.6f}, not {found:.6f}"
