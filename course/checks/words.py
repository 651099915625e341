"""How a check speaks: every complaint is an AssertionError with a sentence, whatever happens in the function it tries."""

import functools
import sys
import traceback

import torch


def called(function, *given, **named):
    """What a function gives back. A fault of it, or nothing given back, becomes a sentence."""
    name = getattr(function, "__name__", "your function")
    assert callable(function), f"this should be a function, and is {function!r}"
    try:
        found = function(*given, **named)
    except Exception as error:
        frames = traceback.extract_tb(sys.exc_info()[2])
        file = getattr(getattr(function, "__code__", None), "co_filename", "")
        line = ([frame for frame in frames if frame.filename == file] or frames)[-1]  # the student's own, if any
        where = f", at `{line.line}`" if line.line else ""
        if isinstance(error, UnboundLocalError) and "trace" in function.__code__.co_names:
            where += "; what should be left after a trace gets `.save()`"
        raise AssertionError(f"`{name}` stopped with {type(error).__name__}: {str(error)[:300]}{where}") from None
    assert found is not None and found is not Ellipsis, (
        f"`{name}` gives nothing back yet: write it, and end with `return`"
    )
    return found


def written(value, name):
    """A value that is not `...` any more."""
    assert value is not None and value is not Ellipsis, (
        f"`{name}` is not written yet: put your answer in place of `...`"
    )
    return value


def tensor(found, shape, name):
    """What was found, as a tensor of this shape."""
    try:
        found = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"`{name}` should give a tensor, and gives {type(found).__name__}") from None
    shape = tuple(shape)
    assert tuple(found.shape) == shape, f"`{name}` gives the shape {tuple(found.shape)}, and {shape} is needed"
    return found.detach()


def number(found, name):
    """What was found, as a float."""
    try:
        return float(found)
    except (TypeError, ValueError):
        raise AssertionError(f"`{name}` should give one number, and gives {found!r}") from None


def near(found, right, within, sentence):
    """Complain, with the largest difference, unless all numbers are near."""
    found, right = torch.as_tensor(found).double(), torch.as_tensor(right).double()
    assert bool(torch.isfinite(found).all()), f"{sentence} (there are numbers that are not finite)"
    off = float((found - right).abs().max())
    assert off <= within, f"{sentence} (off by {off:.3g}; {within:g} is allowed)"


once = functools.cache
