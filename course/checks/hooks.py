"""Hooks that a try leaves in a model would spoil every later run: they are counted, and taken out for the next try."""

from .words import called


def taken_out(model):
    """Take all hooks out of a model, which has none of its own; how many there were."""
    lists = [hooks for module in model.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks)]
    left = sum(map(len, lists))
    for hooks in lists:
        hooks.clear()
    return left


def hooked(model, function, *given):
    """What a function gives back that may put hooks into a model: it finds a model without any, and has to leave one."""
    taken_out(model)
    try:
        found = called(function, *given)
    finally:
        left = taken_out(model)
    assert left == 0, (
        f"{left} hooks are still in the model afterwards, and every later run would be changed: remove() each of them (this "
        "time the check took them out)"
    )
    return found
