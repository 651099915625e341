"""The kernel of a chapter: that of the interpreter which runs the book, set up by nothing that this machine has set.

Which kernels are installed under the name `python3`, what an IPython profile, a startup file or `PYTHONSTARTUP` says,
belongs to the reader's own notebooks. The same chapter has to give the same page everywhere.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import lifetime, opened

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager


def manager(folder: Path) -> "type[AsyncKernelManager]":
    """What starts this kernel, and no other, for nbclient.

    They speak through sockets in that folder. A port of the network is looked for, given up, and bound by the kernel
    a second later: of two chapters that start side by side, one may find its port taken. The folder is relative to
    where both of them start, for the path of a socket may have a hundred bytes. Windows has no such sockets.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    local = os.name != "nt"

    class Manager(AsyncKernelManager):
        def __init__(self, **given: Any) -> None:
            super().__init__(**({"transport": "ipc", "ip": str(folder / "kernel")} if local else {}), **given)

        @property
        def kernel_spec(self) -> KernelSpec:
            # -P: the folder that the kernel starts in comes on the path later, as IPython puts it there.
            command = [sys.executable, "-P", "-m", __name__, "-f", "{connection_file}"]
            here = {"kernel_provisioner": {"provisioner_name": "local-provisioner"}}
            return KernelSpec(argv=command, display_name="Python 3", language="python", metadata=here)

    return Manager


def environment(folder: Path) -> dict[str, str]:
    """Variables by which Jupyter and IPython keep what they write in this folder, and read no other."""
    return {name: str(folder / name.lower()) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}


def main() -> None:
    """Be the kernel, as long as the process lives that started it."""
    lifetime.with_parent(int(os.environ["JPY_PARENT_PID"]))  # set by jupyter_client
    opened.watch()
    from ipykernel.kernelapp import IPKernelApp

    class Kernel(IPKernelApp):
        def load_config_file(self, *_: Any, **__: Any) -> None:
            """Read no settings: those of the system and of the environment lie in other folders than `IPYTHONDIR`."""

        def _run_startup_files(self) -> None:
            """Run none, for the same reason, nor what `PYTHONSTARTUP` names."""

    Kernel.launch_instance()


if __name__ == "__main__":
    main()
