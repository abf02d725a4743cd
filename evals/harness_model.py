"""A loaded model as lm-evaluation-harness asks it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from dataset_builder.template import Template, prompt_ids, text


def run_model(model: Any, tokenizer: Any, template: Template, rows: int, is_templated: bool) -> Any:
    """The model with its tokenizer, answering `rows` at once; templated, in its own template."""
    return RunModel(model, tokenizer, template, rows, is_templated)


class RunModel(HFLM):
    """The harness's own wrapper, but that chats are written by treetune's template.

    They are encoded as treetune encodes them: what a prompt says never becomes a control token. A
    stop text of the template ends an answer too.
    """

    def __init__(
        self, model: Any, tokenizer: Any, template: Template, rows: int, is_templated: bool
    ) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=rows)
        self.template, self.is_templated = template, is_templated
        self.asked: dict[str, list[int]] = {}

    @property
    def tokenizer_name(self) -> str:
        return f"treetune {self.template.name}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template's name: the harness records it."""
        return self.template.name

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text; its ids are kept, for when it is asked."""
        written = text(self.template, chat_history)
        if chat_history[-1]["role"] == "assistant":
            return written if add_generation_prompt else written.removesuffix(self.template.end)
        self.asked[written] = prompt_ids(self.template, self.tokenizer, chat_history)
        return written

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The prompts as ids and mask, padded on the left."""
        known = [self.asked.get(each) for each in strings]
        if not self.is_templated or any(each is None for each in known):
            return super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)
        rows = [list(each or [])[-(left_truncate_len or 0) :] for each in known]
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = [[pad] * (width - len(row)) + row for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids), torch.tensor(mask)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answers; a stop text of the template ends one like the task's own."""
        if self.is_templated and self.template.stops:
            for request in requests:
                context, kwargs = request.arguments
                request.arguments = (context, _stopping(kwargs, self.template.stops))
        answers: list[str] = super().generate_until(list(requests), disable_tqdm=disable_tqdm)
        return answers


def _stopping(kwargs: Mapping[str, Any], stops: Sequence[str]) -> dict[str, Any]:
    until = kwargs.get("until") or []
    return {**kwargs, "until": [*([until] if isinstance(until, str) else until), *stops]}
