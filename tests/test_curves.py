"""The criterion that loss curves are held to, and what the speed of training is counted in."""

from bench.curves import SEEDS, WAYS, verdict, windows
from bench.rows import Rows
from dataset_builder.fit import FittedRow
from finetune.packing import granule


def curves(apart: float, noise: float) -> dict[tuple[str, int], list[float]]:
    """Falling losses of 100 steps: TRL `apart` below ours, the second seed `noise` off in turn."""
    return {
        (way, seed): [
            3 - step / 100 - apart * (way == "trl") + noise * seed * (-1) ** (step // 9)
            for step in range(100)
        ]
        for way in WAYS
        for seed in SEEDS
    }


def test_curves_agree_within_the_noise_of_two_seeds_and_not_beyond():
    within = verdict(curves(apart=0.01, noise=0.03))
    assert within["agrees"]
    assert abs(within["bias"] - 0.01) < 1e-9
    assert not verdict(curves(apart=0.05, noise=0.03))["agrees"]
    assert verdict(curves(apart=0.0, noise=0.0))["agrees"]
    assert not verdict(curves(apart=1e-3, noise=0.0))["agrees"]


def test_windows_leave_the_first_tenth_out_and_hold_every_other_step():
    assert windows(list(range(100))) == [14.0 + 9 * n for n in range(10)]
    assert windows([7.0, 1.0, 2.0]) == [7.0, 1.0, 2.0]
    assert len(windows(list(range(87)))) == 10


def test_a_packed_row_is_padded_by_a_64th_or_a_few_tokens():
    for tokens in range(1, 20_000, 7):
        beyond = -tokens % granule(tokens)
        assert beyond <= max(15, tokens / 64)
        assert (tokens + beyond) % 16 == 0


def test_only_real_tokens_are_counted_and_padding_is_told():
    rows = Rows([FittedRow(str(n), [1] * 5, [2] * n) for n in (3, 40, 200)], [0, 1, 2, 0])
    assert rows.tokens(0, 4) == 8 + 45 + 205 + 8
    assert rows.tokens(1, 2) == 45
    waste = rows.waste(2)
    assert waste["padded"] == 1 - 266 / (2 * 45 + 2 * 205)
    assert waste["packed"] == 1 - 266 / (64 + 224)
