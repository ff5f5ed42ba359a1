"""ATen operations that choose elements by data: `topk`, `sort`, `argmax`, `gather`, and indices that the network computes.

Two nodes carry them: `topk` finds places (the largest first, equal ones in the order they stand), `gather` fetches what
stands there. Places are whole numbers in float tensors, exact up to 2^24, so that they move like any tensor. The count is
fixed by the program: token dropping that keeps k of n tokens is a network of fixed sizes.
"""

from __future__ import annotations

from typing import Any

from netwright.core.errors import TraceError
from netwright.design.recurrent import Recurrent

LARGEST = 2**24


class Choosing(Recurrent):
    """One method `op_NAME` an operation, as in `Aten`."""

    def places(self, node: Any, x: str, dim: int, k: int, largest: bool) -> str:
        shape = list(self.shape(x))
        dim %= len(shape)
        if shape[dim] > LARGEST:
            raise TraceError(f"choosing among {shape[dim]:,} elements is not exact in floats; the most is {LARGEST:,}")
        shape[dim] = k
        return self.part(node, "topk", [x], shape, {"dim": dim, "k": k, "largest": bool(largest)})

    def fetched(self, node: Any, x: str, dim: int, index: str) -> str:
        return self.part(node, "gather", [x, index], self.shape(index), {"dim": dim % len(self.shape(x))})

    def _ordered(self, node: Any, a: dict[str, Any], k: int, largest: bool) -> None:
        x = self.tensor(node.args[0])
        index = self.places(node, x, a["dim"], k, largest)
        self.results[node.name] = [self.fetched(node, x, a["dim"], index), index]

    def op_topk(self, node: Any, a: dict[str, Any]) -> None:
        self._ordered(node, a, a["k"], a["largest"])

    def op_sort(self, node: Any, a: dict[str, Any]) -> None:
        self._ordered(node, a, self.shape(self.tensor(node.args[0]))[a["dim"]], a["descending"])

    def op_argsort(self, node: Any, a: dict[str, Any]) -> None:
        x = self.tensor(node.args[0])
        self.result(node, self.places(node, x, a["dim"], self.shape(x)[a["dim"]], a["descending"]))

    def _extreme_place(self, node: Any, a: dict[str, Any], largest: bool) -> None:
        x, dim = self.tensor(node.args[0]), a.get("dim")
        if dim is None:
            x, dim = self.viewed(node, x, (self.specs[x].elements,)), 0
        index = self.places(node, x, dim, 1, largest)
        self.result(node, self.viewed(node, index, tuple(node.meta["val"].shape)))

    def op_argmax(self, node: Any, a: dict[str, Any]) -> None:
        self._extreme_place(node, a, True)

    def op_argmin(self, node: Any, a: dict[str, Any]) -> None:
        self._extreme_place(node, a, False)

    def _extreme(self, op: str, node: Any, a: dict[str, Any]) -> None:
        """x.max(dim) whose places somebody reads."""
        if not isinstance(node.meta["val"], (list, tuple)) or not any(u.args[1] == 1 and u.users for u in node.users):
            super()._extreme(op, node, a)
            return
        x, shape = self.tensor(node.args[0]), tuple(node.meta["val"][0].shape)
        index = self.places(node, x, a["dim"], 1, op == "maximum")
        self.results[node.name] = [self.viewed(node, y, shape) for y in (self.fetched(node, x, a["dim"], index), index)]

    def op_gather(self, node: Any, a: dict[str, Any]) -> None:
        x, index = self.tensor(a["self"]), self.tensor(a["index"])
        self.result(node, self.fetched(node, x, a["dim"], index))

    def _rows(self, node: Any, x: str, dim: int, index: str) -> None:
        """The elements of one dimension at places [k]."""
        shape, (k,) = list(self.shape(x)), self.shape(index)
        index = self.viewed(node, index, [k if d == dim else 1 for d in range(len(shape))])
        shape[dim] = k
        self.result(node, self.fetched(node, x, dim, self.expanded_to(node, index, shape)))

    def expanded_to(self, node: Any, x: str, shape: list[int]) -> str:
        return x if list(self.shape(x)) == shape else self.part(node, "expand", [x], shape, {"shape": shape})

    def op_index(self, node: Any, a: dict[str, Any]) -> None:
        computed = [(d, i) for d, i in enumerate(a["indices"]) if i is not None and self.known(i) is None]
        one = len(computed) == 1 and sum(i is not None for i in a["indices"]) == 1
        if one and not str(computed[0][1].meta["val"].dtype).endswith("bool") and computed[0][1].meta["val"].dim() == 1:
            self._rows(node, self.tensor(node.args[0]), computed[0][0], self.tensor(computed[0][1]))
        else:
            super().op_index(node, a)

    def op_index_select(self, node: Any, a: dict[str, Any]) -> None:
        if self.known(a["index"]) is not None:
            return super().op_index_select(node, a)
        x = self.tensor(node.args[0])
        return self._rows(node, x, a["dim"] % len(self.shape(x)), self.tensor(a["index"]))
