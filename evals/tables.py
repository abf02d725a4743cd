"""Generations, scores and comparisons as declared tables; eval.json and comparison.json."""

from typing import Any

import msgspec
import pyarrow as pa

from dataset_builder.tables import Table
from finetune.gate import Gate

GENERATIONS = Table(
    "generations",
    pa.schema(
        [
            ("prompt_id", pa.string()),  # a held-out message's id, or `<file>:<line>`
            ("tree_id", pa.string()),  # the cluster; of a prompt file's prompt, its own id
            ("origin", pa.string()),  # held_out, or the prompt file's name
            ("lang", pa.string()),
            ("prompt", pa.string()),  # as asked by a person: without the limit
            # Words, or what the wording counts; null where none was stated.
            ("limit", pa.int32()),
            ("wording", pa.string()),  # null where no limit was stated, or made elsewhere
            ("sample", pa.int32()),  # 0, 1, ... of the same prompt and limit
            ("answer", pa.string()),
            ("tokens", pa.int32()),  # of the answer, the end of text counted; null: not known
            # By itself; false where it was cut at the allowed tokens, null where it is not known.
            ("is_stopped", pa.bool_()),
            ("seconds", pa.float64()),  # its share of its batch's; null: not known
        ]
    ),
    ("prompt_id", "limit", "wording", "sample"),
)

SCORES = Table(
    "scores",
    pa.schema(
        [
            # Who answered: `run`; and, beside a base model only, human, human_cut, other_human,
            # one_word, base_cut.
            ("answerer", pa.string()),
            ("prompt_id", pa.string()),
            ("tree_id", pa.string()),
            ("limit", pa.int32()),
            ("wording", pa.string()),
            ("sample", pa.int32()),
            ("metric", pa.string()),
            ("value", pa.float64()),
        ]
    ),
    ("answerer", "prompt_id", "limit", "wording", "sample", "metric"),
)

COMPARISON = Table(
    "comparison",
    pa.schema(
        [
            ("arm", pa.string()),
            ("baseline", pa.string()),  # the first arm
            ("metric", pa.string()),
            ("limit", pa.int32()),  # null: without a limit
            ("is_pooled", pa.bool_()),  # over all limits that were stated
            ("prompts", pa.int32()),  # shared by both
            ("trees", pa.int32()),  # clusters
            ("seeds", pa.int32()),  # the smaller number of the two arms
            ("baseline_mean", pa.float64()),
            ("arm_mean", pa.float64()),
            ("difference", pa.float64()),  # arm minus baseline
            ("low", pa.float64()),  # 95 % interval of the difference; null where it cannot be had
            ("high", pa.float64()),
            ("p", pa.float64()),
            # Over arms and metrics of the verdict; null on rows that are not of it.
            ("p_holm", pa.float64()),
            ("detectable", pa.float64()),  # the smallest difference this n shows with 80 % power
            # better, worse, trades, cannot tell; of one seed: this run beats or loses.
            # Null on rows that are not of the verdict: those describe.
            ("verdict", pa.string()),
            # The 90 % interval: what two one-sided tests at 5 % read (Schuirmann 1987).
            ("low_90", pa.float64()),
            ("high_90", pa.float64()),
            # How much worse is still `no worse`, given beforehand, in the metric's unit; null where
            # none was given.
            ("margin", pa.float64()),
            # equivalent, no worse, not shown; null where no margin was given, or the arms have
            # fewer than three seeds.
            ("equivalence", pa.string()),
        ]
    ),
    ("arm", "metric", "limit", "is_pooled"),
)


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """eval.json: what was asked of whom, and how it went."""

    name: str  # <suite>-<digest8>
    suite_name: str
    suite: dict[str, Any]  # whole
    run: str | None  # the run's name, or that of imported answers; None for a base model
    base: str  # the base model, as the preset says it
    base_digest: str
    tables: str  # digest of the tables the held-out prompts came from
    adapter_sha256: str | None
    template: str
    settings: dict[str, Any]  # of generation: precision, merged or not, greedy, batch
    prompts: int
    prompts_by_origin: dict[str, int]
    generations: int
    unscored: dict[str, int]  # generations without a score, by metric
    gates: list[Gate]  # beside a base model only
    contamination: dict[str, int]  # suite prompts found in the run's training rows, by origin
    seconds: float  # of answering, of all GPUs together
    tokens_per_second: float  # of one GPU
    versions: dict[str, str]
    device: dict[str, Any]
    suite_digest: str = ""  # with its prompt files; evaluations are compared where it is equal
    prompt_files: dict[str, str] = {}  # name -> sha256
    refused: dict[str, int] = {}  # lines of prompt files, and questions not asked, by reason
    contaminated: list[str] = []  # ids of suite prompts found in the run's training rows
    notes: dict[str, Any] = {}


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One arm of a comparison as reports need it."""

    label: str  # short and unique within the comparison, such as the variant's name
    arm: str  # <preset>-<digest8>/<variant>-<digest12>, or `base`
    runs: list[str]  # directories, one per seed; none of a base model and of imported answers
    evaluations: list[str]  # directories, one per seed
    is_baseline: bool
    # rows, steps, trained_tokens, epochs, concise_share_before, concise_share_after, ...
    summary: dict[str, float]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """comparison.json: the arms, the verdict and everything a report shows beside the table."""

    name: str
    suite: str
    suite_digest: str
    created: str
    sentence: str  # the verdict in one sentence
    warnings: list[str]
    arms: list[Arm]
    # Rows for base, human, one_word, base_cut and so on: answerer, limit, metric, mean, n.
    trivial: list[dict[str, Any]]
    limits: list[int | None]
    gates: list[Gate]
    differing: dict[str, dict[str, Any]]  # recipe and preset keys that differ -> label -> value
    not_shared: int  # prompts left out because an arm trained on them or did not answer them
    # Requested against given words, a row per run and stated limit, over the prompts compared:
    # arm, seed (None of a base model), limit, n, words (mean), words_low, words_median, words_high
    # (quartiles), share (mean of words / limit), share_low, share_median, share_high.
    curves: list[dict[str, Any]] = []
    # How much longer answers get where more is asked for, per run: arm, seed, slope (of the log of
    # the words on the log of the limit: 1 follows the limit, 0 ignores it), low, high (95 %), n (of
    # prompts), cut (prompts left out since an answer of theirs was cut at its tokens).
    slopes: list[dict[str, Any]] = []
    margins: dict[str, float] = {}  # metric -> the margin given beforehand
    # Each arm less the random draw that controls it, in the metrics of the verdict: arm, control,
    # match (rows or words), and what a row of the table `comparison` has. Each by itself: no
    # verdict rests on them.
    controls: list[dict[str, Any]] = []
    # In how many training rows each arm's variant and the baseline's differ: arm, baseline, rows,
    # baseline_rows, same, rewritten (the same row, written otherwise), only_arm, only_baseline; or
    # the reason why that is not known.
    overlaps: list[dict[str, Any]] = []
    # What was aimed at before the first run: metric, bound (at_most, at_least), wanted, arm, limit,
    # mean, low, high (95 %), prompts, found (reached, missed, open).
    aims: list[dict[str, Any]] = []
    notes: dict[str, Any] = {}
