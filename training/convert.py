"""Turn a GGUF file into a Hugging Face directory, so that everything else reads one format.

python -m training.convert FILE.gguf OUTPUT
"""

import os
import shutil
import sys
from pathlib import Path

# Before torch is loaded: threads that wait must sleep, as in __main__.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.canary import write_canary


def convert_gguf(source: Path, output: Path) -> None:
    """Write source's weights in bfloat16, tokenizer, chat template and canary.json; output is whole or not there.

    The loaded model remembers that it was quantised and would be saved so: its weights go into a fresh one. Says on
    standard output what share of its time each part has taken, as it goes.
    """
    print("10% torch is loaded", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    print("25% the tokenizer is read", flush=True)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    print("90% the weights are read", flush=True)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.bfloat16
    fresh = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    fresh.load_state_dict(model.state_dict())
    fresh.generation_config = model.generation_config
    workshop = output.with_name(f"{output.name}.{os.getpid()}")
    shutil.rmtree(workshop, ignore_errors=True)
    fresh.to(torch.bfloat16).save_pretrained(workshop)
    tokenizer.save_pretrained(workshop)
    write_canary(workshop)
    workshop.rename(output)


if __name__ == "__main__":
    convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
