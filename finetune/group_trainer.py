"""TRL's GRPO trainer over answers that are made and judged here.

The loss is TRL's default (`dapo`, Yu and others 2025, arXiv 2503.14476): over all tokens of a
step's answers alike, their ratios clipped as in PPO, with the k3 estimate of the divergence from
the start beside it (Shao and others 2024, arXiv 2402.03300). A rollout makes the answers of
`rollout_steps` steps at once, by plain merged weights; what the start of the run would have given
is asked of the same model with the start's adapter put back for as long.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import Trainer
from trl import GRPOTrainer

from dataset_builder.fit import FittedPrompt
from finetune import launch
from finetune.decode import Wanted
from finetune.fast import Fast, install
from finetune.groups import Batch, Read, batch_of, token_log_probabilities
from finetune.judged import OF_ANSWERS, Judged, grouped, summed
from finetune.oom import in_pieces
from finetune.plain import answering
from finetune.previews import undisturbed
from finetune.reading import likelihoods
from finetune.rewards import advantages
from finetune.rollout import Made, Question, answers, chances, others_of, worth
from finetune.start import Start
from finetune.trainer import Quiet

if TYPE_CHECKING:
    from finetune.plan import Plan

# Of its tokens: the share whose ratio was clipped, the divergence from the start in nats.
OF_TOKENS = ("clipped_ratio", "divergence")

# Of a rollout's answers, the share cut at their tokens from which on the reader is warned.
MOST_CUT = 0.5


class GroupTrainer(Quiet, GRPOTrainer):
    """Everything, from the order of rows to the schedule, stays TRL's and Transformers'; its way
    from prompts to a loss is not taken. `examples` are prompts, each with a group of answers.
    """

    makes_parts = True  # a rollout and its reading are cut by what memory holds

    def __init__(
        self,
        *arguments: Any,
        plan: "Plan",
        precision: torch.dtype,
        report: Callable[[str], None],
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        assert plan.preset.grpo
        self.plan, self.grpo, self.precision, self.report = (
            plan,
            plan.preset.grpo,
            precision,
            report,
        )
        # Without a price on it the divergence is not looked at either.
        self.terms = (*OF_ANSWERS, *(OF_TOKENS if self.grpo.beta else OF_TOKENS[:1]))
        self.data_collator = _places
        self.is_packed = False
        self.generating = 0.0  # seconds that answers took so far
        self._noted: list[torch.Tensor] = []  # sums over tokens, one of each pass of the step
        self._rolled: dict[int, Rolled] = {}
        self._counts: dict[int, tuple[int, int]] = {}  # tokens of each step, and those of answers
        self._questions = [
            Question(row.example_id, row.tree_id, row.plain_ids) for row in plan.rows
        ]
        self._others: dict[str, list[list[int]]] = {}
        self._is_warned = False

    def remember_start(self) -> None:
        """The adapter as it now is, is the one that the run is held against."""
        self._start = Start(self.model)

    def use(self, fast: Fast) -> None:
        """From now on this trainer's batches are packed and computed by `fast`."""
        install(fast.model, fast)
        self.is_fast = self.is_packed = True

    def get_train_dataloader(self) -> Any:
        """A micro-batch of places in the planned order at a time: what is asked at them, a rollout
        looks up.
        """
        return self._get_dataloader(
            dataset=self.train_dataset,
            description="Training",
            batch_size=self._prompts,
            sampler_fn=partial(Trainer._get_train_sampler, self),
            is_training=True,
        )

    @property
    def _prompts(self) -> int:
        """Prompts of a micro-batch."""
        return int(self.args.per_device_train_batch_size) // self.grpo.group

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The step's micro-batches, answered, and the tokens of its share in the rollout."""
        planned, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        step = self.state.global_step
        if step not in self._rolled:
            self._rolled = self._roll(step)
        rolled = self._rolled[step]
        if [each["place"].tolist() for each in planned] != rolled.places:
            raise RuntimeError(f"step {step + 1}: other prompts than the rollout's are due")
        # As TRL counts: every token of a rollout weighs the same, in whichever of its steps.
        share = sum(each.trained for each in self._rolled.values()) / len(self._rolled)
        return list(rolled.batches), torch.tensor(share, device=device)

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Only onto the device: there is nothing left to generate."""
        return Trainer._prepare_inputs(self, inputs)

    def _roll(self, first: int) -> "dict[int, Rolled]":
        """Answers for the steps from `first` on, as many as a rollout is for, with their worth."""
        steps = range(first, min(first + self.grpo.rollout_steps, self.args.max_steps))
        places = [self._places_of(step) for step in steps]
        asked = [place for of_step in places for micro in of_step for place in micro]
        prompts = [self.plan.rows[self.plan.order[place]] for place in asked]
        each = [prompt for prompt in prompts for _ in range(self.grpo.group)]
        wanted = [
            Wanted(row.prompt_ids, row.allowed, chances(self.plan.seed, place, n, row.allowed))
            for place, row in zip(asked, prompts, strict=True)
            for n in range(self.grpo.group)
        ]
        with self.reading():
            made = self._answers(wanted)
            rewards = worth(each, made, self.others_of, self.likelihoods)
            self._warn(made)
            groups = grouped(list(zip(each, made, rewards, strict=True)), self.grpo.group)
            taken = iter(groups)
            rolled = {}
            for step, of_step in zip(steps, places, strict=True):
                micros = [[next(taken) for _ in micro] for micro in of_step]
                rolled[step] = self._rolled_step(of_step, micros)
                self._counts[step + 1] = rolled[step].tokens, rolled[step].trained
        return rolled

    def _places_of(self, step: int) -> list[list[int]]:
        """Where this process's micro-batches of a step lie in the planned order."""
        per_step, among = self.args.gradient_accumulation_steps, launch.processes()
        size, rank = self._prompts, launch.rank()
        starts = [((step * per_step + n) * among + rank) * size for n in range(per_step)]
        return [list(range(start, start + size)) for start in starts]

    def _rolled_step(self, places: list[list[int]], micros: list[list[list[Judged]]]) -> "Rolled":
        batches = [self._batch(groups) for groups in micros]
        flat = [group for groups in micros for group in groups]
        sums, count = summed(flat)
        tokens = [len(p.prompt_ids) + len(made.ids) for group in flat for p, made, _ in group]
        trained = sum(len(made.ids) for group in flat for _, made, _ in group)
        every = launch.of_all((sums, count, sum(tokens), trained))
        total = sum(count for _, count, _, _ in every)
        return Rolled(
            places,
            batches,
            sum(each for _, _, each, _ in every),
            sum(each for *_, each in every),
            {name: sum(sums[name] for sums, *_ in every) / total for name in OF_ANSWERS},
        )

    def _batch(self, groups: list[list[Judged]]) -> Batch:
        """A micro-batch as `compute_loss` takes it."""
        reads = [
            [Read(prompt.prompt_ids, made.ids) for prompt, made, _ in group] for group in groups
        ]
        batch = self._collated(reads)
        worths = [advantages([reward.total for *_, reward in group]) for group in groups]
        batch["advantages"] = torch.tensor(worths, dtype=torch.float32)
        inputs = self._prepare_inputs(batch)
        if self.grpo.rollout_steps > 1:
            batch["old"] = self._read(inputs)
        if self.grpo.beta:
            with self._start.again():
                batch["reference"] = self._read(inputs)
        return batch

    def _read(self, inputs: Batch) -> torch.Tensor:
        """The log-probabilities of a micro-batch's answers, which nothing is trained on."""
        ask = partial(token_log_probabilities, self.model)
        return in_pieces(ask, inputs, "the answers to one prompt, read")

    def _collated(self, reads: Sequence[Sequence[Read]]) -> Batch:
        return batch_of(reads, self.processing_class.pad_token_id, self.is_packed)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss per token of the step's share in the rollout's answers."""
        found = token_log_probabilities(model, inputs)
        ratio = (found - inputs.get("old", found.detach())).exp()
        advantage = inputs["advantages"][..., None]
        low, high = 1 - self.grpo.clip, 1 + self.grpo.clip
        losses = -torch.min(ratio * advantage, ratio.clamp(low, high) * advantage)
        is_clipped = ((ratio < low) & (advantage < 0)) | ((ratio > high) & (advantage > 0))
        noted = [is_clipped.float()]
        if self.grpo.beta:
            beyond = inputs["reference"] - found
            divergence = beyond.exp() - beyond - 1
            losses = losses + self.grpo.beta * divergence
            noted.append(divergence.detach())
        counts = inputs["answered"] > 0
        self._noted.append(torch.stack([torch.where(counts, each, 0.0).sum() for each in noted]))
        loss = torch.where(counts, losses, 0.0).sum() / num_items_in_batch
        return loss * self.accelerator.num_processes  # whose gradients are averaged

    def forget(self) -> None:
        """What was noted of the step that is being made: it is made again."""
        self._noted.clear()

    def step_terms(self) -> dict[str, torch.Tensor]:
        """The means of the terms over the step's answers, and over their tokens."""
        rolled = self._rolled[self.state.global_step - 1]
        summed = torch.stack(self._noted).sum(dim=0)
        self.forget()
        if self.args.world_size > 1:
            summed = self.accelerator.reduce(summed, "sum")
        told = [rolled.told[name] for name in OF_ANSWERS]
        values = torch.cat([summed.new_tensor(told), summed / rolled.trained])
        return dict(zip(self.terms, values.unbind(), strict=True))

    def counted(self, step: int) -> tuple[int, int]:
        """The tokens that a step, counted from 1, put through the model, and those of answers."""
        return self._counts[step]

    def others_of(self, prompt: FittedPrompt) -> list[list[int]]:
        """The questions that answers to it are also read after."""
        if prompt.example_id not in self._others:
            self._others[prompt.example_id] = others_of(
                prompt.example_id, prompt.tree_id, self._questions
            )
        return self._others[prompt.example_id]

    def likelihoods(self, reads: Sequence[Read]) -> list[tuple[float, float]]:
        """What the run's start gives each answer, and its last token: in nats."""
        room = self.args.per_device_train_batch_size * self.plan.preset.length
        with self._start.again():
            return likelihoods(reads, room, self._read_answers)

    def _read_answers(self, reads: Sequence[Read]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = self._prepare_inputs(self._collated([[each] for each in reads]))
        return token_log_probabilities(self.model, batch)[:, 0], batch["answered"][:, 0]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The model only read, in the precision of the run; nothing about the training changes."""
        with undisturbed(self.model), torch.no_grad(), self.accelerator.autocast():
            yield

    def _answers(self, wanted: Sequence[Wanted]) -> list[Made]:
        began = time.perf_counter()
        plan = self.plan
        with answering(self.model, self.precision, self.accelerator.autocast) as model:
            made = answers(model, plan.template, plan.tokenizer, wanted)
        self.generating += time.perf_counter() - began
        return made

    def _warn(self, made: Sequence[Made]) -> None:
        """Say so where most answers are cut at the tokens they may have: such a run learns little,
        and nobody sees it in the reward alone.
        """
        share = sum(not each.is_stopped for each in made) / len(made)
        if share > MOST_CUT and not self._is_warned:
            self.report(
                f"{share:.0%} of the answers are cut at the tokens they may have, and are worth"
                " nothing: the run starts from a model that does not end its answers, or `tokens`,"
                " `tokens_per_word` and `spare_tokens` in [grpo] are too few"
            )
        self._is_warned = share > MOST_CUT

    def summed(self, batch: dict[str, Any]) -> dict[str, float]:
        """What greedy answers to held-out prompts are worth, each term summed, and of how many."""
        prompts = [self.plan.validation_rows[place] for place in batch["place"].tolist()]
        made = self._answers([Wanted(each.prompt_ids, each.allowed) for each in prompts])
        rewards = worth(prompts, made, self.others_of, self.likelihoods)
        sums, count = summed([[each] for each in zip(prompts, made, rewards, strict=True)])
        return {name: sums[name] for name in OF_ANSWERS if name != "flat"} | {"count": count}


class Rolled(NamedTuple):
    """A step that was answered: what it trains on, and what is told of it."""

    places: list[list[int]]  # in the planned order, of this process's micro-batches
    batches: list[Batch]
    tokens: int  # of all processes: through the model
    trained: int  # and in answers
    told: dict[str, float]  # OF_ANSWERS


def _places(rows: Sequence[dict[str, Any]]) -> Batch:
    return {"place": torch.tensor([row["place"] for row in rows])}
