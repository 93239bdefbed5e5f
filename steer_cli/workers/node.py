"""The model of a command on the nodes of a cluster: found there, and made sure to be the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from steer_cli.errors import SweepError
from steer_cli.models.hardware import Hardware
from steer_cli.models.identity import WEIGHTS, fingerprint
from steer_cli.models.located import Located
from steer_cli.models.resolve import locate
from steer_cli.version import __version__
from steer_cli.workers.cluster import Needs

if TYPE_CHECKING:
    from steer_cli.models.load import Model

WORKING_BYTES = 1_000_000_000  # of a worker, beside its weights: Python, torch, streams


@dataclass(frozen=True)
class NodeModel:
    """A model, and what must be the same on every node."""

    located: Located
    hardware: Hardware
    folder: str  # where the command runs; relative names of files are seen from here
    weights: str
    version: str

    @classmethod
    def of(cls, located: Located, hardware: Hardware) -> NodeModel:
        """What workers load; each has one thread unless `hardware` says otherwise."""
        hardware = replace(hardware, threads=hardware.threads or 1)
        return cls(located, hardware, os.getcwd(), fingerprint(located, WEIGHTS), __version__)

    @property
    def needs(self) -> Callable[[bool], Needs]:
        """What a worker needs of its node, given whether the cluster has accelerators."""
        files = self.located.folder.glob("*.safetensors")
        memory = WORKING_BYTES + 2 * sum(file.stat().st_size for file in files)
        threads, on_cpu = self.hardware.threads or 1, self.hardware.device == "cpu"
        return lambda accelerators: Needs(threads, int(accelerators and not on_cpu), memory)

    def load(self) -> Model:
        """Load the model on this node, and enter the folder of the command if it is there.

        Raises:
            SteerError: the node has another version of steer or other weights, or no such model.
        """
        from steer_cli.models.load import load

        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        where = f"ray: node {os.uname().nodename}" if hasattr(os, "uname") else "ray: a node"
        if self.version != __version__:
            raise SweepError(
                f"{where}: it has steer {__version__}, and this is {self.version}; install the same there"
            )
        located = self.located
        if not located.folder.is_dir():
            # Another machine: the name says which model, the digest whether it is the same.
            located = locate(located.name)
        if fingerprint(located, WEIGHTS) != self.weights:
            raise SweepError(
                f"{where}: its model {located.name} has other weights; copy the model's folder there"
            )
        return load(located, self.hardware)
