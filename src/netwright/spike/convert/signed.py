"""Signed neurons with memory: a spike that was sent too early is taken back by a negative one.

    s = [v >= theta] - [v < 0 and A > 0],    A <- A + s,    v <- v - theta s,      A the sum of the spikes so far

Positive currents that arrive before negative ones make an ordinary neuron fire for an activation of zero; here the sum of
its spikes never falls below zero and follows the sum of its input both ways. Thresholds and initial potentials as in
`channel`. Wang et al. 2022 (signed neuron with memory); Fast-SNN (Hu et al. 2023) has the same neuron. Negative spikes need
hardware that has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netwright.core.paper import Paper
from netwright.spike.convert.channel import ChannelPercentile


@dataclass(frozen=True)
class SignedMemory(ChannelPercentile):
    """`share` is the percentile of the thresholds, as a share of 1."""

    rule: ClassVar[str] = "memory"

    name: ClassVar[str] = "signed"
    paper: ClassVar[Paper] = Paper(
        "wang2022signed", "Signed Neuron with Memory: Towards Simple, Accurate and High-Efficient ANN-SNN Conversion",
        "Wang, Yuchen and Zhang, Malu and Chen, Yi and Qu, Hong", "IJCAI", 2022, "https://doi.org/10.24963/ijcai.2022/347",
    )  # fmt: skip
