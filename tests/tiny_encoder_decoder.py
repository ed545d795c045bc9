"""Tiny encoder-decoder models with random weights: T5 as it was (tied, scaled), T5 as in Flan-T5 (untied), and BART."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.tiny import TRAINING_TEXT

KINDS = ["t5", "flan-t5", "bart"]


def make_unigram_tokenizer() -> PreTrainedTokenizerFast:
    """A Unigram model of pieces that begin with a mark, as SentencePiece makes it for T5: texts end with </s>."""
    words = sorted({f"▁{word}" for text in TRAINING_TEXT for word in text.split()})
    characters = sorted({character for text in TRAINING_TEXT for character in text if not character.isspace()})
    special = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    # A word is likelier than its pieces, which are likelier than its characters.
    pieces = [("▁", -4.0), *((word, -6.0) for word in words), *((word[:3], -5.0) for word in words if len(word) > 4)]
    vocabulary = dict([*special, *((character, -4.0) for character in characters), *reversed(pieces)])
    tokenizer = Tokenizer(models.Unigram(list(vocabulary.items()), unk_id=2, byte_fallback=False))
    marks = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])  # type: ignore[assignment]
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def make_bart_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that puts <s> and </s> around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>")


def make_encoder_decoder(kind: str, vocabulary: int) -> PreTrainedModel:
    """A tiny model with the same random weights every time, wide enough for opinions."""
    torch.manual_seed(7)
    if kind == "bart":
        sizes: dict[str, Any] = {
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
        }
        config = BartConfig(vocab_size=vocabulary, d_model=32, max_position_embeddings=256, init_std=0.3, **sizes)
        bart = BartForConditionalGeneration(config)
        # A fresh model has none, and a forgotten bias would go unseen.
        bart.final_logits_bias.normal_(std=3.0)
        return bart.eval()
    t5 = T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            feed_forward_proj="relu" if kind == "t5" else "gated-gelu",
            tie_word_embeddings=kind == "t5",
        )
    )
    with torch.no_grad():
        for name, value in t5.named_parameters():
            if "relative_attention_bias" in name:
                value.normal_(std=2.0)
    if kind == "flan-t5":
        t5.lm_head.weight = torch.nn.Parameter(torch.randn(vocabulary, 32))
    return t5.eval()


def save_encoder_decoder(folder: Path, kind: str) -> Path:
    """Write a tiny model with its tokenizer as a Hugging Face folder."""
    tokenizer = make_bart_tokenizer() if kind == "bart" else make_unigram_tokenizer()
    make_encoder_decoder(kind, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder_decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models by kind; not to be written to."""
    root = tmp_path_factory.mktemp("tiny-encoder-decoders")
    return {kind: save_encoder_decoder(root / kind, kind) for kind in KINDS}


def stock_encoder_decoder(folder: Path) -> PreTrainedModel:
    """The same weights as transformers computes them: the reference."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager")
    return cast(PreTrainedModel, model.eval())
