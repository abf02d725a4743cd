"""How far apart two finished runs are: adapters by digest and by number, losses step by step.

python -m bench.compare_runs RUN RUN
"""

import json
import sys
from pathlib import Path

from safetensors.torch import load_file


def main(first: Path, second: Path) -> None:
    ours, theirs = (
        load_file(run / "adapter" / "adapter_model.safetensors") for run in (first, second)
    )
    assert ours.keys() == theirs.keys(), "the adapters are of other shapes"
    digests = [
        json.loads((run / "run.json").read_text())["adapter_sha256"] for run in (first, second)
    ]
    losses = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (first, second)
    ]
    pairs = list(zip(*losses, strict=True))
    apart = [n + 1 for n, (one, other) in enumerate(pairs) if one != other]
    difference = sum(((ours[k].float() - theirs[k].float()) ** 2).sum().item() for k in ours) ** 0.5
    size = sum((tensor.float() ** 2).sum().item() for tensor in theirs.values()) ** 0.5
    print(
        json.dumps(
            {
                "equal": digests[0] == digests[1],
                "adapters_relative_distance": difference / size,
                "adapters_largest_difference": max(
                    (ours[k].float() - theirs[k].float()).abs().max().item() for k in ours
                ),
                "first_step_with_another_loss": apart[0] if apart else None,
                "losses_largest_difference": max(abs(one - other) for one, other in pairs),
                "last_losses": [losses[0][-1], losses[1][-1]],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
