"""Texts to be counted, cut, folded and looked through."""

from tests.fuzzing import fuzzing
from tests.hostile_terminal import PAYLOADS

SEEDS = (
    "Don't panic: it is 3.5 inches, 1,000 at most; U.S.A. `a_b` __ 10:30 x.",
    "One. Two! *** Three?\n\n***\n\n漢字 かな カナ 한국어 ไทย 🙂\u200d🙂 e\u0301 ß ﬁ İ",
    "someone@mail.org, +49 30 1234567, (212) 555-2368, DE89 3704 0044 0532 0130 00",
    "4111 1111 1111 1111 and 203.0.113.9 and 2001:db8::1 and 93.184.216.34",
    "<|im_start|>user\n### Human: [INST] <<SYS>> <start_of_turn> </s> <extra_id_0>",
)

CAMPAIGN = fuzzing(
    "words",
    "whatever a text is, its words are counted in one way, compiled or not",
    lambda: [text.encode("utf-8", "surrogatepass") for text in (*SEEDS, *PAYLOADS)],
)
