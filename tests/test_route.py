"""Which way a run is computed, how long it would take on a T4, what a resumed run says of both."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import torch

from dataset_builder.errors import InputError
from finetune import checkpoints, course, launch
from finetune.duration import T4, duration, flops_per_token, outlook, padded_tokens
from finetune.memory import shapes_of
from finetune.preset import load_preset
from finetune.route import MARGIN, choose, routes
from finetune.run import load_run
from tests.shapes import phi2_headers
from tests.tiny import tiny_llama, tiny_preset, write_variant
from tests.training import Memory, Stopped, planned, segment


@pytest.fixture(scope="module")
def phi2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phi2_headers(tmp_path_factory.mktemp("route") / "phi2")


def ways(found) -> list[tuple[bool, bool]]:
    return [(route.is_fast, route.is_checkpointed) for route in found]


def test_the_quickest_way_that_fits_is_taken(phi2: Path):
    found = routes(phi2, load_preset("phi2-gpu"), (9, 0))
    assert ways(found) == [(True, False), (True, True), (False, False), (False, True)]
    needed = [route.needed.total for route in found]

    assert ways([choose(found, 80e9)]) == [(True, False)]
    assert ways([choose(found, needed[0] * MARGIN)]) == [(True, False)]
    # Within the estimate's error there may be no room.
    assert ways([choose(found, needed[0] * (MARGIN - 0.01))]) == [(True, True)]
    small = choose(found, (needed[1] + needed[3]) / 2)
    assert ways([small]) == [(False, True)]
    assert "GB of GPU memory" in small.slow
    # The slowest is tried wherever it may fit, and named where nothing does.
    assert ways([choose(found, needed[3]), choose(found, 0)]) == [(False, True)] * 2


def test_what_a_preset_says_is_not_chosen_otherwise(phi2: Path):
    loaded = load_preset("phi2-gpu")
    for said in (True, False):
        training = msgspec.structs.replace(loaded.training, gradient_checkpointing=said, fast=False)
        found = routes(phi2, msgspec.structs.replace(loaded, training=training), (9, 0))
        assert ways(found) == [(False, said)]
        assert "as the preset says" in choose(found, 80e9).describe(
            msgspec.structs.replace(loaded, training=training)
        )
    assert "chosen by the estimate" in choose(found, 80e9).describe(loaded)


def test_a_resumed_run_keeps_its_way_where_that_fits(phi2: Path):
    found = routes(phi2, load_preset("phi2-gpu"), (9, 0))
    before = segment(is_fast=False, is_checkpointed=True)
    assert ways([choose(found, 80e9, before)]) == [(False, True)]
    # As it was begun, even without the margin: memory did there.
    quick = segment(is_fast=True, is_checkpointed=False)
    assert ways([choose(found, found[0].needed.total, quick)]) == [(True, False)]
    assert ways([choose(found, found[1].needed.total * MARGIN, quick)]) == [(True, True)]


def test_a_t4_trains_the_default_preset_within_14_gb_and_recomputes_the_larger_one(phi2: Path):
    default = choose(routes(phi2, load_preset("phi2-oasst1-qlora"), (7, 5)), T4.memory)
    assert not default.is_fast
    assert not default.is_checkpointed
    assert default.needed.peak < 14e9
    assert ways([choose(routes(phi2, load_preset("phi2-gpu"), (7, 5)), T4.memory)]) == [
        (False, True)
    ]


def test_the_flops_of_a_token_are_those_of_the_books(phi2: Path):
    preset = load_preset("phi2-oasst1-qlora")
    shapes = shapes_of(phi2, preset)
    # Phi-2 at 256 tokens, rank 16: 10.88 GFLOP, and 5.12 more where the layers are made again.
    assert flops_per_token(shapes, preset, is_checkpointed=False) == pytest.approx(10.88e9, 1e-3)
    assert flops_per_token(shapes, preset, is_checkpointed=True) == pytest.approx(16.0e9, 1e-3)


@pytest.mark.parametrize(
    ("flops", "bandwidth", "measured"), [(798e12, 3.0e12, 11_031), (790e12, 4.3e12, 14_491)]
)
def test_the_time_of_the_usual_path_is_that_of_the_cards_that_ran_it(
    phi2: Path, flops: float, bandwidth: float, measured: float
):
    card = T4._replace(flops=flops, bandwidth=bandwidth)
    took = duration(
        phi2,
        load_preset("phi2-oasst1-qlora"),
        card,
        tokens=8192.0,
        micro_batches=1,
        is_checkpointed=False,
    )
    assert 8192 / took.total == pytest.approx(measured, rel=0.05)


def test_an_outlook_says_that_it_was_not_run_and_what_it_assumes(phi2: Path):
    preset = load_preset("phi2-oasst1-qlora")
    line = outlook(phi2, preset, T4, tokens=32_000 * 256.0, examples=32_000)
    assert line.startswith("on a T4, an estimate that was not run: about 3 h")
    assert "24 TFLOP/s" in line
    assert "288 GB/s" in line
    assert "without gradient checkpointing" in line
    assert outlook(phi2, preset, T4._replace(memory=1e9), tokens=1.0, examples=1) is None


def test_padding_is_counted_to_the_longest_of_each_micro_batch():
    assert padded_tokens([3, 5, 2, 2, 7], 2) == 5 * 2 + 2 * 2 + 7
    assert padded_tokens([], 4) == 0


def test_what_differs_between_segments_is_named():
    one = segment(device={"type": "cuda", "name": "A"}, is_fast=True)
    assert one.differences(one) == []
    other = segment(device={"type": "cuda", "name": "B"}, versions={"torch": "3"}, processes=2)
    assert one.differences(other) == [
        "the device was A, is now B",
        "path was the fast one, is now the usual one",
        "processes was 1, is now 2",
        "torch was 2, is now 3",
    ]


def test_a_run_resumed_elsewhere_says_so_and_keeps_both_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    write_variant()
    preset = tiny_preset(
        tmp_path / "tiny.toml",
        tiny_llama(tmp_path / "llama"),
        base='precision = "fp32"',
        training="gradient_checkpointing = 'auto'",
        previews="prompts = 0",
    )
    with monkeypatch.context() as patch:
        patch.setattr("finetune.model.describe_device", lambda _: {"type": "cuda", "name": "A"})
        with pytest.raises(Stopped):
            course.train(planned(preset), Memory(stop_at=3))
    watcher = Memory()
    # A machine with so little memory recomputes; the run began without.
    monkeypatch.setattr("finetune.route.free_memory", lambda _: 0)
    record = load_run(course.train(planned(preset), watcher, resume=True))

    (told,) = [line for line in watcher.lines if line.startswith("going on otherwise")]
    assert "the device was A, is now cpu" in told
    assert "is now the usual one, recomputing activations" in told
    assert [(each.after, each.until) for each in record.segments] == [(0, 2), (2, 6)]
    assert [each.is_checkpointed for each in record.segments] == [False, True]
    assert record.notes["gradient_checkpointing"]


# Holds the lock of a run and forks; says so once the fork, before which `late` seconds pass, has
# begun, or at once where it is to be killed.
HOLDS_AND_FORKS = """
import os, signal, sys, time
from pathlib import Path

run, then, late = sys.argv[1:]
os.register_at_fork(after_in_child=lambda: time.sleep(float(late)))  # before ours
from finetune import checkpoints

begun, says = os.pipe()
with checkpoints.locked(Path(run)):
    child = os.fork()
    if not child:
        os.write(says, b".")
        time.sleep(60)
        os._exit(0)
    if then == "kill":
        print(child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    os.read(begun, 1)
    if then == "hold":
        print(child, flush=True)
        time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""


@contextmanager
def forking(run: Path, then: str, late: float = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Such a process, and the pid of its fork."""
    command = [sys.executable, "-c", HOLDS_AND_FORKS, str(run), then, str(late)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as holder:
        assert holder.stdout is not None
        yield holder, int(holder.stdout.readline())
        holder.kill()


def ends(process: int) -> bool:
    """Whether it does, within seconds."""
    for _ in range(100):
        if not is_alive(process):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("late", [0, 0.5])
def test_what_a_killed_run_forked_does_not_outlive_it(tmp_path: Path, late: float):
    with forking(tmp_path / "run", "kill", late) as (holder, child):
        assert holder.wait() == -signal.SIGKILL
        assert ends(child)


def test_a_fork_leaves_the_lock_with_the_one_that_trains(tmp_path: Path):
    with (
        forking(tmp_path / "run", "hold"),
        pytest.raises(InputError, match="another process"),
        checkpoints.locked(tmp_path / "run"),
    ):
        pass


def test_a_fork_does_not_hold_the_lock_that_its_run_let_go(tmp_path: Path):
    with forking(tmp_path / "run", "let go"), checkpoints.locked(tmp_path / "run"):
        pass


def is_alive(process: int) -> bool:
    """Whether it runs; one that ended and that nobody has waited for does not."""
    try:
        return "(zombie)" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_machine_that_does_not_see_the_artefacts_is_told_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    launch.check_shared(tmp_path)
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(launch, "of_all", lambda sees: [sees, False])
    with pytest.raises(InputError, match="1 of 1 processes do not see") as error:
        launch.check_shared(tmp_path)
    assert "ARTIFACTS" in str(error.value.hint)


def test_scores_beyond_fp16_are_summed_in_float32_by_the_attention_that_runs():
    """A T4's precision: Phi-2's scores pass 65,504, which eager attention in fp16 cannot hold."""
    torch.manual_seed(0)
    q, k = (60 * torch.randn(1, 2, 8, 80) for _ in range(2))
    v = torch.randn(1, 2, 8, 80)
    scores = (q @ k.transpose(-1, -2)).abs().max()
    assert scores > 65_504
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    half = [each.half() for each in (q, k, v)]
    for mask in (None, torch.ones(8, 8, dtype=torch.bool)):
        found = torch.nn.functional.scaled_dot_product_attention(*half, attn_mask=mask)
        assert torch.allclose(found.float(), wanted, atol=2e-2)
    eager = (half[0] @ half[1].transpose(-1, -2)) / 80**0.5
    assert not torch.isfinite(eager.softmax(-1) @ half[2]).all()
    # What the plain form of it does on a GPU that has no kernel for a case.
    assert not torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
