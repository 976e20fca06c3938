"""TRL's RewardTrainer on one fold of benchmarks/reward_folds.py, run by an environment of its own.

    PYTHON benchmarks/reward_peer_trl.py MODEL TRAIN HELD

One epoch in batches of 8 at a rate of 1e-5, of texts up to 512 tokens, with TRL's own defaults otherwise: weights in
float32, computing in bfloat16. Prints {"differences": [chosen less rejected of each held pair]}.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.pop(0)  # or benchmarks/datasets.py would be imported for Hugging Face's library

import torch
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer


def main(model_path: str, train: str, held: str) -> None:
    """Train, then score."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    rows = load_dataset("json", data_files=train, split="train").select_columns(["prompt", "chosen", "rejected"])
    config = RewardConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=8, num_train_epochs=1, max_length=512,
        learning_rate=1e-5, bf16=True, report_to=[], save_strategy="no", logging_strategy="no",
        use_cpu=not torch.cuda.is_available(), gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = RewardTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    model = trainer.model.eval()
    differences = []
    for line in Path(held).read_text(encoding="utf-8").splitlines():
        row, scores = json.loads(line), []
        for side in ("chosen", "rejected"):
            text = tokenizer.apply_chat_template([*row["prompt"], *row[side]], tokenize=False)
            tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][:, -512:]
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                scores.append(float(model(input_ids=tokens.to(model.device)).logits[0, 0]))
        differences.append(scores[0] - scores[1])
    print(json.dumps({"differences": differences}))


if __name__ == "__main__":
    main(*sys.argv[1:])
