"""Recording, replaying and editing runs of a language model, and the methods of a paper on entity tracking.

What is used together stands under one roof: `from entity_circuits import models, boxes, path_patching`. Nothing is
loaded before it is asked for.
"""

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import circuits as circuits
    from . import heads as heads
    from . import models as models
    from . import results as results
    from . import runs as runs
    from . import statistics as statistics
    from .circuits import criteria as criteria
    from .methods import ablation as ablation
    from .methods import cmap as cmap
    from .methods import dcm as dcm
    from .methods import edges as edges
    from .methods import interchange as interchange
    from .methods import knockout as knockout
    from .methods import path_patching as path_patching
    from .models import subject as subjects  # noqa: F401
    from .runs import edits as edits
    from .runs import replay as replay
    from .tasks import boxes as boxes
    from .tasks import desiderata as desiderata
    from .tasks import planted as planted
    from .tasks import prompts as prompts
    from .tasks import toy as toy

FRONT_DOOR = {
    "ablation": "methods.ablation",
    "boxes": "tasks.boxes",
    "cmap": "methods.cmap",
    "criteria": "circuits.criteria",
    "dcm": "methods.dcm",
    "desiderata": "tasks.desiderata",
    "edges": "methods.edges",
    "edits": "runs.edits",
    "interchange": "methods.interchange",
    "knockout": "methods.knockout",
    "path_patching": "methods.path_patching",
    "planted": "tasks.planted",
    "prompts": "tasks.prompts",
    "replay": "runs.replay",
    "subjects": "models.subject",
    "toy": "tasks.toy",
}
"""Names of this package that are modules of its folders: both ways to import one give the same module."""


class _FrontDoor(MetaPathFinder, Loader):
    """Finds `entity_circuits.NAME` in the folder that the table says."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == __name__ and name in FRONT_DOOR else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{__name__}.{FRONT_DOOR[spec.name.rpartition('.')[2]]}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module is complete; importing it by another name has only put another spec into it, undone here."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state or module.__spec__


sys.meta_path.append(_FrontDoor())
