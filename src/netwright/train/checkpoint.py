"""Checkpoints: one safetensors file with the tensors, and the facts as JSON in its header, written atomically.

One file and not two: tensors and facts can never belong to different steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from netwright.core.errors import NetwrightError
from netwright.core.files import write_bytes

FORMAT = "netwright training checkpoint 1"


@dataclass(frozen=True)
class Checkpoint:
    """State between two steps. `facts` are JSON values, `tensors` are grouped: ``weights.conv.weight``, ``ema. ...``."""

    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors of one group, without its prefix."""
        return {k[len(prefix) + 1 :]: v for k, v in self.tensors.items() if k.startswith(prefix + ".")}

    def save(self, path: Path) -> None:
        """Write to `path`: a reader, or a killed writer, leaves the old file or the new one."""
        # clones: tied weights share memory, which safetensors refuses
        tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in self.tensors.items()}
        write_bytes(path, save(tensors, {"format": FORMAT, "facts": json.dumps(self.facts)}))

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read what `save` wrote.

        Raises:
            NetwrightError: the file is damaged or is no checkpoint.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a handle, not a mapping)
        except (SafetensorError, OSError) as error:
            raise NetwrightError(f"The checkpoint {path} cannot be read ({error}). Remove it to start again.") from error
        if header.get("format") != FORMAT:
            raise NetwrightError(f"{path} is not a {FORMAT!r} (it says {header.get('format')!r}). Remove it to start again.")
        return cls(json.loads(header["facts"]), tensors)


def load_weights(path: Path, kind: str = "best") -> dict[str, Tensor]:
    """The weights of a checkpoint as a state dict: ``best`` (validation), ``weights`` (last step) or ``ema``.

    Raises:
        NetwrightError: the checkpoint has no such weights.
    """
    found = Checkpoint.load(path).group(kind)
    if not found:
        raise NetwrightError(f"The checkpoint {path} holds no {kind!r} weights; it has them only after an evaluation.")
    return found


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: ``<parameter>.<quantity>``."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{k}": v for i, values in state.items() for k, v in values.items() if isinstance(v, Tensor)}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
