"""How a word limit is stated: four wordings to train on, four that only evaluation uses.

A model that keeps limits only in the wording it was tuned on has learnt the wording.
"""

# {question} and {limit} are filled in. Those for training end the question, as users do.
TRAINING = {
    "at_most": "{question}\n\nAnswer in at most {limit} words.",
    "no_more": "{question} Please use no more than {limit} words.",
    "limit": "{question}\n\n(Limit: {limit} words.)",
    "up_to": "{question} Keep it short: up to {limit} words.",
}

EVALUATION = {
    # The form of LIFT (Yuan et al. 2024, arXiv 2406.17744): one line ahead, a blank line, the prompt.
    "lift": "Answer the following instruction using {limit} words or less.\n\n{question}",
    "within": "{question}\n\nYour answer must stay within {limit} words.",
    "fewer": "In {limit} words or fewer: {question}",
    "maximum": "{question}\n\nMaximum length: {limit} words.",
}

WORDINGS = TRAINING | EVALUATION


def state_limit(question: str, limit: int | None, wording: str) -> str:
    """`question` with the limit stated in the wording of that name; unchanged where there is no limit."""
    if limit is None:
        return question
    # Not str.format: a question may hold braces.
    return WORDINGS[wording].replace("{limit}", str(limit)).replace("{question}", question)
