"""Two models that have learnt nothing, to run the ablation of scale where only one real size is at hand.

They have SmolLM2's tokenizer and architecture, few and narrow layers, and random weights: what they score says nothing of any
claim about scale. They show that the driver, its page and its figure work over several models.

    python benchmarks/untrained_models.py models
    flan ablate scale recipes/ablation-base.yaml --points models/untrained-3m,models/untrained-7m --mirror MIRROR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from flanlab.models.built_in import SMOLLM2, built_in_model_folder

SIZES = {
    "untrained-3m": {"hidden_size": 64, "layers": 4, "heads": 2},
    "untrained-7m": {"hidden_size": 128, "layers": 6, "heads": 4},
}


def main() -> None:
    """Write a model folder for each size; the same weights every time."""
    parser = argparse.ArgumentParser(description="Write two small models with random weights.")
    parser.add_argument("out", type=Path, help="folder in which a folder for each model is made")
    out = parser.parse_args().out
    source = built_in_model_folder(SMOLLM2, print)
    tokenizer = AutoTokenizer.from_pretrained(source)
    for name, size in SIZES.items():
        config = AutoConfig.from_pretrained(
            source,
            hidden_size=size["hidden_size"],
            intermediate_size=3 * size["hidden_size"],
            num_hidden_layers=size["layers"],
            num_attention_heads=size["heads"],
            num_key_value_heads=size["heads"] // 2,
            head_dim=size["hidden_size"] // size["heads"],
        )
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
        print(f"{out / name}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
