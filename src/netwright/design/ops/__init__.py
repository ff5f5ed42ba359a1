"""Custom operators: one node, one meaning.

Integer, binary and spiking layers are operators of their own (`torch.ops.netwright.*`), so that they stay one node in
`torch.export` with their bits, thresholds and time steps as arguments. What is written here in PyTorch is the plain
reference that the C kernels must equal integer for integer.

Conventions, the same in the C back end:

* A code tensor holds whole numbers. Activations are symmetric (zero point 0): unsigned 0..255 (`uint8`) after a
  rectifier, signed -127..127 (`int8`) elsewhere; sums are `int32`.
* Rescaling is ``rescale(v, mult, shift) = (v * mult + 2**(shift-1)) >> shift`` in 64 bits, with an arithmetic shift:
  rounding to nearest, ties towards plus infinity. ``shift >= 1``; `mult` is a signed 32-bit number.
* ``sign(0) = +1`` everywhere.
* Zero padding adds nothing to a sum, for binary codes too.
* Spikes of T steps of a batch of N are one tensor of T*N, time first.
"""

from netwright.design.ops import integer as integer
from netwright.design.ops import spiking as spiking
