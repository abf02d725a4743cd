"""Tiny models and a variant, so that every measurement can be tried where there is no GPU.

    python -m bench.tiny FOLDER

FOLDER gets `phi2` and `smollm2`, two tiny models of those families; the variants `tiny` and `pairs`
go to the artefacts.
"""

import sys
from pathlib import Path

from tests.tiny import example, pair, tiny_llama, tiny_phi, write_pairs, write_variant


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tiny_phi(folder / "phi2")
    tiny_llama(folder / "smollm2")
    write_variant(rows=[example(n) for n in range(64)])
    write_pairs(rows=[pair(n) for n in range(64)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
