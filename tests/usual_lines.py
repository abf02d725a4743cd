"""Lines in the form that exporters write, which the quick readers take."""

import json

from tests.builders import message, nested, prompt, reply

SCORES = ("toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat")
SCORES += ("sexual_explicit",)
ROWS = [
    *nested(
        [
            prompt("a", text='line\n"two" \\ é Я 漢 \U0001f600 \u2028', user_id="u"),
            reply("b", "a", labels={"spam": {"value": 1 / 3, "count": 2}}, emojis={"+1": 3}),
            prompt("c", "b", detoxify=dict.fromkeys(SCORES, 7.5e-05)),
            reply("d", "c", rank=1, review_count=3, model_name="m"),
        ]
    ),
    message("e", labels={"quality": {"value": 0.25, "count": 1}}, created_date="2023-01-01"),
    reply("f", "e"),
]
# With what is not ASCII as it is, and as escapes.
USUAL = [json.dumps(row, ensure_ascii=n % 2 == 1).encode() for n, row in enumerate(ROWS * 2)]
