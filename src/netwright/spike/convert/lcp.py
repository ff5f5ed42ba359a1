"""Light calibration: the bias of each channel takes back the mean error that its neurons make on real spikes.

    theta_c as in `mmse`;      b_c <- b_c + E[a_c - theta_c/T sum_t s_t]

layer by layer, so that a layer's correction also covers what the layers before it got wrong. Li et al. 2021, section 4.1
(bias); `potential` gives the error to the initial potential instead, v(0) <- v(0) + T E[...] (section 4.2). Neither uses
gradients; the advanced pipeline of the paper, which does, is not here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from netwright.core.paper import Paper
from netwright.spike.convert.calibrated import Seen
from netwright.spike.convert.lower import Settings
from netwright.spike.convert.mmse import LI, MinimumError
from netwright.spike.convert.simulate import sample, spike_sum


@dataclass(frozen=True)
class LightCalibration(MinimumError):
    """`potential` corrects v(0) in place of the bias."""

    potential: bool = False

    name: ClassVar[str] = "lcp"
    paper: ClassVar[Paper] = LI

    def settle(self, seen: Seen) -> Settings:
        new = super().settle(seen)
        seed = int(torch.randint(2**31, (), generator=seen.generator))
        x = sample(seen.current, seen.current_steps, self.samples, torch.Generator().manual_seed(seed))
        a = sample(seen.target, 1, self.samples, torch.Generator().manual_seed(seed))[0]
        theta, v0 = new.theta.float()[None, None], new.v0.float()[None, None]
        sent = spike_sum(x, theta, v0, torch.zeros_like(theta), self.steps, new.rule, new.limit)[0]
        lacking = (a - sent * theta[0] / self.steps).mean(0)
        if self.potential:
            return replace(new, v0=(new.v0 + self.steps * lacking).round().long())
        return replace(new, bias=lacking.round().long())
