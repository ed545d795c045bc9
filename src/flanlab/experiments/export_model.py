"""A tuned model for other programs: a plain Hugging Face folder with a card (model_card.md), and its upload to the Hub."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCardData
from jinja2 import Environment, StrictUndefined

from flanlab.errors import FlanlabError, one_line
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.files import new_folder, read_json, write_json, write_text
from flanlab.models.built_in import BUILT_IN_MODELS, GEMMA_TERMS_URL
from flanlab.models.gguf import is_gguf
from flanlab.models.loading import load_model
from flanlab.models.sources import STAMP_FILE, is_encoder_decoder, is_gemma, is_prompt_tuned, read_stamp
from flanlab.results.files import RESULTS_FILE, read_results
from flanlab.results.schema import Results, Score
from flanlab.tasks.clusters import Cluster

CARD_FILE = "README.md"
NOTICE_FILE = "NOTICE"
_GEMMA_NOTICE = f"""Gemma is provided under and subject to the Gemma Terms of Use found at {GEMMA_TERMS_URL.removeprefix("https://")}

The model in this folder is a derivative of Gemma. It was changed by instruction tuning with flanlab.
"""
"""What section 3.1 of the terms asks for."""
_ADAPTER_CONFIG = "adapter_config.json"
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")

Kind = Literal["whole", "merged", "lora", "prompt"]
"""A model that was tuned whole, a LoRA adapter merged into its base, a LoRA adapter, or a soft prompt."""

_WHAT = {
    "whole": "all weights were trained",
    "merged": "a LoRA adapter was trained, and is merged into the weights",
    "lora": "this is a LoRA adapter",
    "prompt": "this is a soft prompt (prompt tuning)",
}


def export_model(run: str | Path, out: str | Path, *, merge: bool = False) -> Path:
    """Write the tuned model of a run as a folder that transformers loads alone, or peft where it is an adapter.

    Args:
        run: a run folder, or a folder of a model that was tuned here.
        out: the new folder; an earlier export there is replaced.
        merge: put a LoRA adapter into its base, so that the folder holds a whole model in float32.

    Returns:
        `out`.

    Raises:
        FlanlabError: no tuned model there, a folder that holds something else, or an adapter that only flanlab could load.

    Examples:
        >>> import flanlab as fl
        >>> tuned = fl.train(example_recipe, folder / "run", model=example_model)
        >>> exported = fl.export_model(folder / "run", folder / "model")
        >>> sorted(path.name for path in exported.iterdir() if path.name in ("README.md", "flanlab.json", "model.safetensors"))
        ['README.md', 'flanlab.json', 'model.safetensors']
    """
    run, out = Path(run), Path(out)
    source = run / "model" if (run / "model").is_dir() else run
    stamp = read_stamp(source) if source.is_dir() else None
    if stamp is None:
        raise FlanlabError(f"{run} holds no model that was tuned here.", hint="Name the folder of a run that is tuned.")
    if out.is_dir() and any(out.iterdir()) and not (out / STAMP_FILE).is_file():
        raise FlanlabError(f"{out} holds something else.", hint="Name another folder with --out.")
    if out.resolve() == run.resolve() or source.resolve() in (out.resolve(), *out.resolve().parents):
        raise FlanlabError(f"{out} is the run itself.", hint="Name another folder with --out.")
    kind = _kind(source, stamp, merge)
    with new_folder(out) as temporary:
        if kind == "merged":
            loaded = load_model(str(source), device="cpu")
            loaded.model.save_pretrained(temporary)
            loaded.encoder.tokenizer.save_pretrained(temporary)
        else:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
        if kind in ("lora", "prompt"):
            # What peft wrote down may be a folder of this machine.
            config = read_json(temporary / _ADAPTER_CONFIG)
            write_json(temporary / _ADAPTER_CONFIG, {**config, "base_model_name_or_path": stamp["base_model"]})
        write_json(temporary / STAMP_FILE, stamp)
        # Where the run has got that far.
        mixture = read_json(run / "mixture.json") if (run / "mixture.json").is_file() else None
        results = read_results(run) if (run / RESULTS_FILE).is_file() else None
        card = model_card(stamp, kind, mixture, results, has_encoder=is_encoder_decoder(str(source)))
        write_text(temporary / CARD_FILE, card)
        if is_gemma(str(temporary)):
            write_text(temporary / NOTICE_FILE, _GEMMA_NOTICE)
    return out


def push_model(folder: Path, repository: str) -> str:
    """Upload an exported folder to the Hub; a repository that is not there yet is made, and is private.

    Returns:
        The address of the upload.

    Raises:
        FlanlabError: the Hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        done = api.upload_folder(folder_path=folder, repo_id=repository, commit_message="Upload a model tuned with flanlab")
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise FlanlabError(
            f"{folder} could not be uploaded to {repository}: {one_line(error)}",
            hint="Name a repository of yours as OWNER/NAME, and log in with `hf auth login`; the folder is kept.",
        ) from error
    return str(done)


def _kind(source: Path, stamp: Mapping[str, Any], merge: bool) -> Kind:
    """What the exported folder will be."""
    if not (source / _ADAPTER_CONFIG).is_file():
        return "whole"
    if is_prompt_tuned(str(source)):
        if merge:
            raise FlanlabError(
                f"{source} is a soft prompt, and no weights could take its place.",
                hint="Export it without --merge; peft loads it with its base model.",
            )
        kind: Kind = "prompt"
    else:
        kind = "merged" if merge else "lora"
    base = str(stamp["base_model"])
    if kind != "merged" and (base in BUILT_IN_MODELS or is_gguf(base) or (Path(base) / _ADAPTER_CONFIG).is_file()):
        raise FlanlabError(
            f"The base of the adapter in {source} is {base}, which other programs do not know by that name.",
            hint="Export a whole model with --merge."
            if kind == "lora"
            else "Tune a soft prompt before a model from the Hub or a folder with weights.",
        )
    return kind


def model_card(
    stamp: Mapping[str, Any],
    kind: Kind,
    mixture: Mapping[str, Any] | None,
    results: Results | None,
    *,
    has_encoder: bool = False,
) -> str:
    """The card as Markdown.

    Args:
        stamp: the model's flanlab.json.
        kind: what the folder holds.
        mixture: the run's mixture.json, where there is one.
        results: of the run, where it has got that far.
        has_encoder: whether it is an encoder-decoder model.
    """
    base, training = stamp["base_model"], stamp["recipe"]["training"]
    adapter = kind in ("lora", "prompt")
    head = ModelCardData(
        # Only ids of the Hub may stand there. The licence is left to the person who publishes the model.
        base_model=base if _HUB_ID.fullmatch(base) and not Path(base).exists() else None,
        library_name="peft" if adapter else "transformers",
        tags=["instruction-tuning", "flan", "flanlab"],
    )
    done = stamp.get("steps", training["steps"])
    licences: dict[str, list[str]] = {}
    for name, task in stamp["tasks"].items():
        licences.setdefault(task.get("licence") or "not known", []).append(name)
    template = (resources.files("flanlab.experiments") / "model_card.md").read_text(encoding="utf-8")
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    return environment.from_string(template).render(
        stamp=stamp,
        recipe={"description": "", **stamp["recipe"]},
        training=training,
        steps=f"{done:,} steps" if done == training["steps"] else f"{done:,} of {training['steps']:,} steps",
        head=head.to_yaml(),
        what=_WHAT[kind],
        adapter=adapter,
        automatic="AutoModelForSeq2SeqLM" if has_encoder else "AutoModelForCausalLM",
        has_encoder=has_encoder,
        mixture=mixture,
        trained=_trained(stamp, mixture),
        left_out={name: reason for name, reason in stamp["left_out"].items() if reason != "held out"},
        licences=[(licence, ", ".join(names)) for licence, names in sorted(licences.items())],
        labels=lambda clusters: ", ".join(Cluster(name).label for name in clusters),
        table=_table,
        **_results(results),
    )


def _trained(stamp: Mapping[str, Any], mixture: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    if mixture is None:
        return [(name, Cluster(task["clusters"][0]).label) for name, task in stamp["tasks"].items()]
    rows = []
    for name, one in mixture["tasks"].items():
        counts = (f"{one[count]:,}" for count in ("examples", "tokens", "target_tokens"))
        rows.append((name, Cluster(one["cluster"]).label, f"{one['rows']:,}", f"{one['rate']:.1%}", *counts))
    return rows


def _results(results: Results | None) -> dict[str, Any]:
    if results is None:
        return {"results": None}
    shots = EvaluationSettings.model_validate(next(iter(results.variants.values())).settings).shot_count
    scores = [
        (
            f"{name} ({task.mark})" if task.mark else name,
            task.metrics[task.main_metric].title,
            *(_score(results.main_scores(name)[variant]) for variant in results.variants),
        )
        for name, task in results.tasks.items()
    ]
    titles = [variant.title for variant in results.variants.values()]
    asked = f"{shots}-shot" if shots else "Without exemplars" if results.in_domain else "Zero-shot"
    return {"results": results, "shots": asked, "titles": titles, "scores": scores}


def _score(score: Score) -> str:
    low, high = score.interval
    return f"{score.mean:.3f} [{low:.3f}, {high:.3f}]"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars and line breaks in cells are taken care of."""
    body = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(header), ["---"] * len(header), *body])
