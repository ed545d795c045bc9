"""`flan export model`: folders that other programs load without flanlab, with a card that says what they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from typer.testing import CliRunner

from flanlab.cli.main import app
from flanlab.errors import FlanlabError
from flanlab.experiments.export_model import export_model, push_model
from flanlab.experiments.recipe import Recipe
from flanlab.experiments.run import run_recipe, train_recipe
from flanlab.models.loading import LoadedModel, load_model
from flanlab.models.packed_attention import pack_segments, packed_logits
from flanlab.models.soft_prompt import virtual_tokens
from flanlab.results.files import read_results
from tests.tiny import WINDOW, WINDOWED, recipe_content, save_tiny, write_recipe

WITHOUT_FLANLAB = """
import json, sys
sys.modules["flanlab"] = None
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
for line in sys.stdin:
    folder, base, kind = json.loads(line)
    automatic = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    model = automatic.from_pretrained(base or folder)
    if base:
        model = PeftModel.from_pretrained(model, folder)
    model.eval()
    AutoTokenizer.from_pretrained(folder)
    assert not any(name.startswith("flanlab.") for name in sys.modules)
    more = {"decoder_input_ids": torch.tensor([[0]])} if kind == "t5" else {}
    with torch.inference_mode():
        print(json.dumps(model(input_ids=torch.tensor([[5, 6, 7, 8, 9]]), **more).logits[0, -1].tolist()), flush=True)
"""
Logits = Callable[..., torch.Tensor]


@pytest.fixture(scope="module")
def logits_without_flanlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logits]:
    """Gives the last logits after five tokens; one process that cannot import flanlab computes all of them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    home = tmp_path_factory.mktemp("elsewhere")
    with (
        (home / "errors").open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", WITHOUT_FLANLAB],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            cwd=home,
        ) as process,
    ):

        def logits(folder: Path, base: str = "", kind: str = "llama") -> torch.Tensor:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps([str(folder), base, kind]), file=process.stdin, flush=True)
            told = process.stdout.readline()
            assert told, (home / "errors").read_text()
            return torch.tensor(json.loads(told))

        yield logits


def logits_here(loaded: LoadedModel) -> torch.Tensor:
    prompt = [*virtual_tokens(loaded.model), 5, 6, 7, 8, 9]
    with torch.inference_mode():
        return packed_logits(loaded.model, pack_segments([(prompt, [])]))[-1]


def recipe_of(model: Path, home: Path, **training: Any) -> Recipe:
    evaluation = {"rows": 4, "templates_per_row": 1, "new_tokens": 4}
    return write_recipe(home, recipe_content(model, **{"steps": 2, **training}) | {"evaluation": evaluation})


@pytest.fixture(scope="module")
def done(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a whole model, evaluated; not to be written to."""
    home = tmp_path_factory.mktemp("home")
    run_recipe(recipe_of(tiny_folder, home), home / "run")
    return home / "run"


def train(model: Path, home: Path, **training: Any) -> Path:
    train_recipe(recipe_of(model, home, **training), home / "run")
    return home / "run"


def test_whole_model_loads_without_flanlab(done: Path, tmp_path: Path, logits_without_flanlab: Logits) -> None:
    found = CliRunner().invoke(app, ["export", "model", str(done), "--out", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    assert found.stdout.strip() == str(tmp_path / "out")
    assert "flanlab_packed" not in (tmp_path / "out" / "config.json").read_text(encoding="utf-8")
    expected = logits_here(load_model(str(done / "model"), device="cpu"))
    torch.testing.assert_close(logits_without_flanlab(tmp_path / "out"), expected, rtol=0, atol=1e-4)
    # It is the same model to flanlab too, with the same stamp.
    ours, theirs = (load_model(str(folder), device="cpu") for folder in (done / "model", tmp_path / "out"))
    assert (ours.identity, ours.stamp) == (theirs.identity, theirs.stamp)


def test_lora_adapter_loads_without_flanlab(tiny_folder: Path, tmp_path: Path, logits_without_flanlab: Logits) -> None:
    run = train(tiny_folder, tmp_path, method="lora", lora_rank=4)
    expected = logits_here(load_model(str(run / "model"), device="cpu"))
    assert (logits_here(load_model(str(tiny_folder), device="cpu")) - expected).abs().max() > 1e-2
    for merge in (False, True):
        out = export_model(run, tmp_path / f"merge-{merge}", merge=merge)
        assert (out / "adapter_config.json").exists() is not merge
        assert (out / "model.safetensors").exists() is merge
        found = logits_without_flanlab(out, "" if merge else str(tiny_folder))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert ("PeftModel" in (out / "README.md").read_text(encoding="utf-8")) is not merge


def test_soft_prompt_loads_without_flanlab(tiny_folder: Path, tmp_path: Path, logits_without_flanlab: Logits) -> None:
    run = train(tiny_folder, tmp_path, method="prompt", prompt_length=5, learning_rate=0.3)
    with pytest.raises(FlanlabError, match="is a soft prompt, and no weights could take its place"):
        export_model(run, tmp_path / "merged", merge=True)
    assert not (tmp_path / "merged").exists()
    out = export_model(run, tmp_path / "out")
    expected = logits_here(load_model(str(run / "model"), device="cpu"))
    torch.testing.assert_close(logits_without_flanlab(out, str(tiny_folder)), expected, rtol=0, atol=1e-4)


def test_encoder_decoder_model_loads_without_flanlab(
    encoder_decoders: dict[str, Path], tmp_path: Path, logits_without_flanlab: Logits
) -> None:
    run = train(encoder_decoders["t5"], tmp_path)
    out = export_model(run, tmp_path / "out")
    loaded = load_model(str(run / "model"), device="cpu")
    with torch.inference_mode():
        ids, start = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[0]])
        expected = loaded.model(input_ids=ids, decoder_input_ids=start).logits[0, -1]
    torch.testing.assert_close(logits_without_flanlab(out, kind="t5"), expected, rtol=0, atol=1e-4)
    assert "AutoModelForSeq2SeqLM" in (out / "README.md").read_text(encoding="utf-8")


def test_card_says_what_the_model_is(done: Path, tmp_path: Path) -> None:
    card = (export_model(done, tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head == {"library_name": "transformers", "tags": ["instruction-tuning", "flan", "flanlab"]}
    assert "# tiny" in card
    assert "Clusters: miscellaneous.\n" in card
    assert "Clusters: sentiment. Tasks: comments." in card
    tuned = read_results(done).main_scores("comments")["tuned"]
    assert f"{tuned.mean:.3f} [{tuned.low:.3f}, {tuned.high:.3f}]" in card
    mixture = json.loads((done / "mixture.json").read_text(encoding="utf-8"))["tasks"]["counting"]
    assert f"| counting | miscellaneous | 16 | 100.0% | {mixture['examples']} | {mixture['tokens']:,} |" in card
    assert "| CC0-1.0 | counting |" in card
    assert "must not be used for" in card
    assert "from transformers import AutoModelForCausalLM" in card


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_derivative_of_gemma_has_the_notice_of_its_terms(method: str, tmp_path: Path) -> None:
    gemma = save_tiny(tmp_path / "gemma", "gemma3", sliding_window=WINDOW, **WINDOWED["gemma3"])
    run = train(gemma, tmp_path, method=method, steps=1)
    notice = (export_model(run, tmp_path / "out") / "NOTICE").read_text(encoding="utf-8")
    terms = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
    assert notice.splitlines()[0] == terms
    assert "It was changed by instruction tuning" in notice


def test_other_models_have_no_notice(done: Path, tmp_path: Path) -> None:
    assert not (export_model(done, tmp_path / "out") / "NOTICE").exists()


def test_card_without_results_lists_the_tasks(tiny_folder: Path, tmp_path: Path) -> None:
    out = export_model(train(tiny_folder, tmp_path), tmp_path / "out")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "| counting | miscellaneous |" in card
    assert "## Results" not in card


def test_card_of_a_run_that_held_nothing_out(tiny_folder: Path, tmp_path: Path) -> None:
    content = recipe_content(tiny_folder, steps=2) | {
        "hold_out": {},
        "tasks": {"collections": ["tasks"], "include": ["counting"]},
    }
    train_recipe(write_recipe(tmp_path, content), tmp_path / "run")
    card = (export_model(tmp_path / "run", tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    assert "## What was held out\n\nNothing.\n\n" in card
    assert "instruction-tuned on 1 task with" in card


def test_export_replaces_only_an_export(done: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(FlanlabError, match="holds something else"):
        export_model(done, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    for _ in range(2):
        export_model(done, tmp_path / "out")
    with pytest.raises(FlanlabError, match="holds no model that was tuned here") as caught:
        export_model(tmp_path / "mine", tmp_path / "other")
    assert "run" in caught.value.hint
    with pytest.raises(FlanlabError, match="is the run itself"):
        export_model(done / "model", done / "model")


def test_adapter_of_a_base_that_others_do_not_know(tiny_folder: Path, tmp_path: Path, logits_without_flanlab: Logits) -> None:
    first = train(tiny_folder, tmp_path / "first", method="lora", lora_rank=4) / "model"
    second = train(first, tmp_path / "second", method="lora", lora_rank=4)
    with pytest.raises(FlanlabError, match="which other programs do not know by that name") as caught:
        export_model(second, tmp_path / "out")
    assert "--merge" in caught.value.hint
    out = export_model(second, tmp_path / "out", merge=True)
    expected = logits_here(load_model(str(second / "model"), device="cpu"))
    torch.testing.assert_close(logits_without_flanlab(out), expected, rtol=0, atol=1e-4)


def test_push_uploads_the_folder(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **given: calls.append((name, given)))

    def upload(_: HfApi, **given: Any) -> str:
        calls.append(sorted(path.name for path in Path(given["folder_path"]).iterdir()))
        return f"https://hub/{given['repo_id']}"

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    found = CliRunner().invoke(app, ["export", "model", str(done), "--out", str(tmp_path / "out"), "--push", "me/tiny"])
    assert found.exit_code == 0, found.output
    assert found.stdout.splitlines() == [str(tmp_path / "out"), "https://hub/me/tiny"]
    assert calls[0] == ("me/tiny", {"private": True, "exist_ok": True})
    assert {"README.md", "config.json", "flanlab.json", "model.safetensors", "tokenizer.json"} <= set(calls[1])

    def refuse(_: HfApi, **given: Any) -> str:
        raise OSError("no way to the Hub")

    monkeypatch.setattr(HfApi, "upload_folder", refuse)
    with pytest.raises(FlanlabError, match="could not be uploaded to me/tiny: no way to the Hub") as caught:
        push_model(tmp_path / "out", "me/tiny")
    assert "hf auth login" in caught.value.hint
