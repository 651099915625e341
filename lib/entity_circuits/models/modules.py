"""What makes the modules of a model unfit to be edited one by one: an adapter beside one, or one in two places."""

from typing import Any

from . import forms


def adapter(model: Any) -> str:
    """What of a model is a module of PEFT, which may be all of it, in words; nothing without an adapter.

    For example:

        from entity_circuits import toy
        from entity_circuits.models import modules

        assert modules.adapter(toy.subject().model) == ""
    """
    for path, module in model.named_modules():
        if type(module).__module__.partition(".")[0] == "peft":
            return f"{path or 'it'} is a {type(module).__name__} of PEFT"
    return ""


def twice(model: Any) -> str:
    """Which module with weights is in two places of the layers, in words; nothing if each is in one.

    An edit in one of the places would act in the other, too. Activations without weights may be shared, and so may
    weights that are in two modules.

    For example:

        from entity_circuits import toy
        from entity_circuits.models import modules

        model = toy.subject().model
        model.model.layers[1] = model.model.layers[0]
        print(modules.twice(model))  # layers 0 and 1 are one module
    """
    try:
        layers = forms.of(model).blocks(model)
        places = list(layers.named_modules(remove_duplicate=False))
    except AttributeError:  # a model of another form, which `check` refuses
        return ""
    met: dict[int, str] = {}
    for path, module in places:
        first = met.setdefault(id(module), path)
        if first != path and next(module.parameters(), None) is not None:
            return f"layers {first} and {path} are one module"
    return ""
