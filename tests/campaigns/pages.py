"""Reports of texts that are put together from every payload, opened in Chromium."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reports.html import write_report
from tests.browser import chromium
from tests.campaign import Attempt, Campaign, Outcome
from tests.hostile_pages import (
    HOSTILE,
    attack_answers,
    attack_names,
    hostile_answers,
    hostile_findings,
)

# Where one text goes over into the next one.
JOINTS = (
    "",
    " ",
    "\n",
    "\x00",
    '"',
    "'",
    "<",
    ">",
    "&",
    "\\",
    "`",
    "</",
    "\u2028",
    "\u200d",
    "]]>",
)


@contextmanager
def prepare(shared: Path) -> Iterator[Attempt]:
    """A browser."""
    with chromium() as tab:

        def attempt(seed: int, folder: Path) -> Outcome:
            payloads = texts(seed)
            for name, made in (("names", hostile_findings), ("answers", hostile_answers)):
                (folder / name).mkdir()
                page = folder / name / "report.html"
                write_report(made(folder / name, payloads), page)
                if made is hostile_findings:
                    attack_names(tab, page)
                else:
                    attack_answers(tab, page, payloads)
            return Outcome(tried=len(payloads))

        yield attempt


def texts(seed: int) -> list[str]:
    """As many texts as there are payloads: those themselves, or of each a part and what others
    have, behind each other.
    """
    if not seed:
        return [*HOSTILE]
    chance = random.Random(seed)
    made = []
    for payload in HOSTILE:
        others = chance.choices(HOSTILE, k=chance.randint(1, 2))
        cut = payload[: chance.randint(1, len(payload))] if chance.random() < 0.3 else payload
        pieces = chance.sample([cut, *others], k=len(others) + 1)
        made.append(chance.choice(JOINTS).join(pieces))
    return list(dict.fromkeys(made))


CAMPAIGN = Campaign(
    code="S1",
    promise="a report runs nothing and asks for nothing, whatever its texts hold",
    counted="texts in every slot of a report, in Chromium",
    aim=300,
    prepare=prepare,
)
