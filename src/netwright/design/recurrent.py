"""Recurrent layers of ATen as nodes `lstm`, `gru` and `rnn`, one a layer and direction (their meaning: reference.py)."""

from __future__ import annotations

from typing import Any

from netwright.design.aten import spec_of
from netwright.design.windows import Windowed

ROLES = ("weight", "recurrent", "bias", "recurrent_bias")


def _read(node: Any, index: int) -> bool:
    """Somebody reads the result of this number."""
    return any(u.args[1] == index and u.users for u in node.users)


class Recurrent(Windowed):
    """`nn.LSTM`, `nn.GRU`, `nn.RNN` of any depth and direction, and their cells."""

    def layer(self, node: Any, op: str, x: str, states: list[str], params: list[Any], attrs: dict[str, Any]) -> str:
        weights = self.roles(**dict(zip(ROLES, params, strict=False)))
        n, t, _ = self.shape(x)
        hidden = self.state[weights["recurrent"]].shape[1]
        macs = n * t * sum(self.state[weights[r]].numel() for r in ("weight", "recurrent"))
        return self.part(node, op, [x, *states], (n, t + int(attrs.get("cell", False)), hidden), attrs, weights, macs)

    def first(self, node: Any, hx: list[Any], row: int) -> list[str]:
        """The first states of one layer and direction; none where all are zero."""
        known = [self.known(h) for h in hx]
        if all(k is not None and not k.any() for k in known):
            return []
        names = [self.tensor(h) for h in hx]
        return [self.viewed(node, self.cut(node, h, 0, row, row + 1), self.shape(h)[1:]) for h in names]

    def _layers(self, op: str, node: Any, a: dict[str, Any], **attrs: Any) -> None:
        hx = a.get("hx")
        hx = list(hx) if isinstance(hx, (list, tuple)) else [hx]
        projected = op == "lstm" and spec_of(hx[0].meta["val"]).shape != spec_of(hx[-1].meta["val"]).shape
        if "input" not in a or projected:  # packed sequences; projections
            self.emit(node, f"aten.{op}", [self.tensor(node.args[0])])
            return
        x, per, directions = self.tensor(a["input"]), 4 if a["has_biases"] else 2, 2 if a["bidirectional"] else 1
        x = x if a["batch_first"] else self.turned(node, x, (1, 0, 2))
        steps, cell = self.shape(x)[1], op == "lstm" and _read(node, 2)
        last: list[str] = []
        cells: list[str] = []
        for depth in range(a["num_layers"]):
            sides = []
            for side in range(directions):
                row = depth * directions + side
                extra = {"cell": True} if cell else {}
                y = self.layer(node, op, x, self.first(node, hx, row), a["params"][row * per : (row + 1) * per],
                               {"reverse": bool(side), **attrs, **extra})  # fmt: skip
                if cell:
                    cells.append(self.turned(node, self.cut(node, y, 1, steps, steps + 1), (1, 0, 2)))
                y = self.cut(node, y, 1, 0, steps)
                if _read(node, 1):
                    at = 0 if side else steps - 1
                    last.append(self.turned(node, self.cut(node, y, 1, at, at + 1), (1, 0, 2)))
                sides.append(y)
            x = self.joined(node, sides, 2)
        x = x if a["batch_first"] else self.turned(node, x, (1, 0, 2))
        self.results[node.name] = [x, self.joined(node, last, 0) if last else x, self.joined(node, cells, 0) if cells else x]

    def op_lstm(self, node: Any, a: dict[str, Any]) -> None:
        self._layers("lstm", node, a)

    def op_gru(self, node: Any, a: dict[str, Any]) -> None:
        self._layers("gru", node, a)

    def op_rnn_tanh(self, node: Any, a: dict[str, Any]) -> None:
        self._layers("rnn", node, a, activation="tanh")

    def op_rnn_relu(self, node: Any, a: dict[str, Any]) -> None:
        self._layers("rnn", node, a, activation="relu")

    def _cell(self, op: str, node: Any, a: dict[str, Any], **attrs: Any) -> None:
        hx = list(a["hx"]) if isinstance(a["hx"], (list, tuple)) else [a["hx"]]
        known = [self.known(h) for h in hx]
        states = [] if all(k is not None and not k.any() for k in known) else [self.tensor(h) for h in hx]
        x = self.tensor(a["input"])
        n, size = self.shape(x)
        x = self.viewed(node, x, (n, 1, size))
        params = [a[k] for k in ("w_ih", "w_hh", "b_ih", "b_hh")]
        y = self.layer(node, op, x, states, params, {"reverse": False, **attrs, **({"cell": True} if op == "lstm" else {})})
        shape = (n, self.shape(y)[2])
        if op == "lstm":
            rows = (self.viewed(node, self.cut(node, y, 1, i, i + 1), shape) for i in range(2))
            self.results[node.name] = list(rows)
        else:
            self.result(node, self.viewed(node, y, shape))

    def op_lstm_cell(self, node: Any, a: dict[str, Any]) -> None:
        self._cell("lstm", node, a)

    def op_gru_cell(self, node: Any, a: dict[str, Any]) -> None:
        self._cell("gru", node, a)

    def op_rnn_tanh_cell(self, node: Any, a: dict[str, Any]) -> None:
        self._cell("rnn", node, a, activation="tanh")

    def op_rnn_relu_cell(self, node: Any, a: dict[str, Any]) -> None:
        self._cell("rnn", node, a, activation="relu")
