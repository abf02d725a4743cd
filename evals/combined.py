"""Which of two answers is the better one, limits and quality together: a violation is an automatic
loss.

Of two answers that both keep their limit the one with the higher quality score wins; of two that
both break it neither does. A value is the share of the other arm's seeds that an answer wins
against, a tie counting half, so that the difference of two arms is one's wins less the other's.
"""

import numpy as np

Array = np.ndarray


def wins(broken: Array, quality: Array, rival_broken: Array, rival_quality: Array) -> Array:
    """(seeds, prompts): how much of the rival's seeds each answer wins against, 0 to 1.

    All are (seeds, prompts): `broken` the share of samples that broke the limit, `quality` the mean
    score of those that kept it. NaN where a quality that would decide is not there.
    """
    ours, theirs = broken[:, None], rival_broken[None]
    above = np.where(
        np.isnan(quality[:, None]) | np.isnan(rival_quality[None]),
        np.nan,
        (np.sign(quality[:, None] - rival_quality[None]) + 1) / 2,
    )
    both = (1 - ours) * (1 - theirs)
    decided = np.where(both > 0, both * above, 0.0)
    won = (1 - ours) * theirs + decided + ours * theirs / 2
    return won.mean(axis=1)
