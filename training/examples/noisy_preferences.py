"""Wrong labels found by an ensemble: python -m training.examples.noisy_preferences [FOLDER]"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from training.api import run_stage
from training.examples.world import SMALL, folder_of, make_policy, write_preferences


def main(folder: Path) -> dict[str, Any]:
    """Train on pairs of which a fifth is wrong, plainly and by an ensemble; print and return the latter's metrics."""
    policy, preferences = make_policy(folder), write_preferences(folder, 240, flipped=0.2)
    settings: dict[str, Any] = {"model": policy, "train": preferences, "lr": 1e-3, "epochs": 1} | SMALL
    plain = run_stage("reward", folder / "plain", **settings)
    amended = run_stage("reward", folder / "amended", ensemble=4, flip_share=0.25, **settings)
    pairs = [json.loads(line) for line in (folder / "amended" / "strength.jsonl").read_text().splitlines()]
    wrong, turned = (row["id"] == "wrong" for row in pairs), [row["id"] for row in pairs if row["flipped"]]
    print(f"{sum(wrong)} of {len(pairs)} pairs are wrong; turned round: {len(turned)}, wrongly {turned.count('right')}")
    print("the weakest and the strongest:", pairs[0], pairs[-1], sep="\n")
    print(f"validation loss: {plain['loss/validation']:.3f} plain, {amended['loss/validation']:.3f} amended")
    print("(the validation pairs are wrong in a fifth too: what is right about them is at most 80 %)")
    return amended


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(folder_of(sys.argv, temporary))
