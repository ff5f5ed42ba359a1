"""Rules for recurrent layers: all inputs in one product, then one step of the kernel after another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from netwright.core.graph import Node
from netwright.deploy.c99 import layout, pack
from netwright.deploy.c99.floats import matrix, picked, tile
from netwright.deploy.c99.lower import Lowering, Pointer, Rule, Value, buffer

KINDS = {"lstm": "NW_LSTM", "gru": "NW_GRU", "tanh": "NW_RNN_TANH", "relu": "NW_RNN_RELU"}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def recurrent(work: Lowering, node: Node) -> Value:
    x, a = work.floating(node.inputs[0]), node.attrs
    given = matrix(work, node, work.ordered(x, layout.natural(3)), work.floats("weight"))
    given = work.ordered(replace(given, columns=None), layout.natural(3))
    weight = work.floats("recurrent")
    gates, hidden = GATES[node.op], weight.shape[1]
    outputs, steps, cell = gates * hidden, x.shape[1], int(bool(a.get("cell")))
    bias = work.floats("recurrent_bias", np.zeros(outputs, np.float32))
    states = [work.ordered(work.floating(name), (0, 1)).at for name in node.inputs[1:]]
    first: list[Pointer] = [*states, *[None] * (2 - len(states))]
    y = work.new(x, shape=(x.shape[0], steps + cell, hidden), order=layout.natural(3))
    scratch = work.scratch(4 * (outputs + 2 * hidden))
    vectors: list[Pointer] = [
        work.const(pack.float_conv(weight[:, :, None, None], 1), "w"),
        work.const(pack.channels(bias, 1), "b"),
    ]
    blocks = -(-outputs // pack.BLOCK)
    (block,) = picked(tile(1, 1, blocks, 24, 1), tile(1, 1, blocks, 12, 2))[2:]
    kind = KINDS[a.get("activation", node.op)]
    sizes = (kind, x.shape[0], steps, hidden, int(a["reverse"]), cell, block)
    work.step("nw_recurrent_f32", [given.at, *vectors, *first, y.at, scratch], *sizes, writes=buffer(y))
    return y


RULES: dict[str, Rule] = dict.fromkeys(("lstm", "gru", "rnn"), recurrent)
