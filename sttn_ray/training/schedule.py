"""The learning rate over the steps."""

from collections.abc import Sequence


def learning_rate(step: int, *, base: float, decay_at: Sequence[int]) -> float:
    """The learning rate of a step, counted from 0: `base`, a tenth of it from each of the steps `decay_at` on.

    The published rule, base * 0.1 ** (min(step, niter_steady) // niter), is decay_at = niter, 2 * niter, ... up to
    niter_steady: 150000,300000 for YouTube-VOS, 300000 for DAVIS. The paper says every 150000 for both (D-20).
    """
    return base * 0.1 ** sum(step >= border for border in decay_at)
