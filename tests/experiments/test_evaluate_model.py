"""Evaluating a remote model: the results of the local one, nothing asked twice, and said what was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flanlab.cli.main import app
from flanlab.cli.tables import print_results
from flanlab.errors import FlanlabError
from flanlab.evaluation import predict
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.experiments.evaluate_model import RESPONSES_FILE, evaluate_model
from flanlab.models.completions import Endpoint
from flanlab.report.html import write_report
from flanlab.results.files import read_results
from flanlab.results.schema import BEST_ON_DEV
from flanlab.tasks.loading import load_task
from flanlab.tasks.schema import Task
from tests.completions_server import Served, fails, serve
from tests.tiny import tiny_tasks

SETTINGS = EvaluationSettings(rows=5, new_tokens=6)
KEY = "sk-very-secret-0123456789"


@pytest.fixture
def served(tiny_folder: Path) -> Iterator[Served]:
    with serve(tiny_folder) as running:
        yield running


@pytest.fixture
def tasks(tmp_path: Path) -> Sequence[Task]:
    return tiny_tasks(tmp_path / "tasks")


def predictions(folder: Path, style: str = "instruction") -> list[dict[str, Any]]:
    return [
        row for path in sorted((folder / "predictions" / style).rglob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


@pytest.mark.parametrize("by", ["ids", "text"])
def test_remote_results_are_the_local_ones(
    by: str, served: Served, tasks: Sequence[Task], tiny_folder: Path, tmp_path: Path
) -> None:
    tokenizer = str(tiny_folder) if by == "ids" else None
    styles: list[Any] = ["instruction", "chat"] if by == "ids" else ["instruction"]
    settings = SETTINGS if by == "ids" else SETTINGS.model_copy(update={"end_token": False})
    local = evaluate_model(str(tiny_folder), tasks, settings, tmp_path / "local", styles=styles)
    remote = evaluate_model(
        "tiny", tasks, SETTINGS, tmp_path / "remote", styles=styles, endpoint=Endpoint(served.url, tokenizer)
    )
    with_end, without = (
        ["option_scores", "option_scores_alone"],
        ["option_scores_without_end", "option_scores_alone_without_end"],
    )
    for style in styles:
        for ours, theirs in zip(predictions(tmp_path / "local", style), predictions(tmp_path / "remote", style), strict=True):
            for column in without if by == "text" else [*with_end, *without]:
                assert theirs[column] == pytest.approx(ours[column], abs=1e-4)
            if by == "text" and ours["options"]:
                # The longest answer is counted in characters then, which are more.
                assert theirs.pop("generated").startswith(ours.pop("generated").rstrip("\N{REPLACEMENT CHARACTER}"))
            apart = {*with_end, *without}
            assert {name: theirs[name] for name in theirs.keys() - apart} == {name: ours[name] for name in ours.keys() - apart}
    assert local is not None
    assert remote is not None
    assert {n: t.main_metric for n, t in local.tasks.items()} == {n: t.main_metric for n, t in remote.tasks.items()}
    for ours, theirs in zip(local.scores, remote.scores, strict=True):
        assert theirs.mean == pytest.approx(ours.mean, abs=1e-4)
    assert remote == read_results(tmp_path / "remote")
    for variant in remote.variants.values():
        assert (variant.model, variant.parameters, variant.dtype, variant.stamped) == ("tiny", None, None, False)
        assert variant.scoring == "log-probabilities"
    notes = " ".join(remote.notes)
    assert "Scoring: log-probabilities" in notes
    assert ("without the end token" in notes) == (by == "text")
    assert "Scoring: log-probabilities" in write_report(tmp_path / "remote").read_text(encoding="utf-8")


def test_without_log_probabilities_generated_answers_count(
    served: Served, tasks: Sequence[Task], tmp_path: Path, tiny_folder: Path
) -> None:
    served.log_probabilities = False
    results = evaluate_model("tiny", tasks, SETTINGS, tmp_path / "out", endpoint=Endpoint(served.url, str(tiny_folder)))
    assert results is not None
    assert results.variants["instruction"].scoring == "generation"
    assert "Scoring: generation" in " ".join(results.notes)
    assert results.tasks["comments"].main_metric == "exact_match"
    assert results.metrics("task", "comments") == ["exact_match", "valid_answers"]
    local = evaluate_model(str(tiny_folder), tasks, SETTINGS, tmp_path / "local")
    assert local is not None
    for metric in ("exact_match", "valid_answers"):
        ours, theirs = (found.scored("task", "comments", metric)["instruction"] for found in (results, local))
        assert ours.mean == theirs.mean
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "Scoring: generation" in page
    assert "Ranked another answer first" not in page
    unable = SETTINGS.model_copy(update={"generate": False})
    with pytest.raises(FlanlabError, match="Options cannot be ranked"):
        evaluate_model("tiny", tasks, unable, tmp_path / "other", endpoint=Endpoint(served.url))


def test_killed_evaluation_asks_for_nothing_again(
    served: Served, tasks: Sequence[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "_QUESTIONS_PER_SHARD", 4)
    whole = evaluate_model("tiny", tasks, SETTINGS, tmp_path / "whole", endpoint=Endpoint(served.url))
    wanted = set(served.answered)
    served.answered.clear()
    for done in (2, 9, 30):
        served.fails_after = done
        with pytest.raises(FlanlabError, match="out of credit"):
            evaluate_model("tiny", tasks, SETTINGS, tmp_path / "killed", endpoint=Endpoint(served.url, parallel=2))
    served.fails_after = None
    assert evaluate_model("tiny", tasks, SETTINGS, tmp_path / "killed", endpoint=Endpoint(served.url)) == whole
    assert set(Counter(served.answered).values()) == {1}
    assert set(served.answered) == wanted
    count = len(served.asked)
    evaluate_model("tiny", tasks, SETTINGS, tmp_path / "killed", endpoint=Endpoint(served.url))
    assert len(served.asked) == count, "a finished evaluation asks nothing"


def test_key_is_in_no_file(
    served: Served,
    tasks: Sequence[Task],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    folder = tmp_path / "out"
    arguments = ["eval", "comments", "--tasks", str(tmp_path / "tasks"), "--rows", "3", "--model", "tiny", "--out", str(folder)]
    remote = ["--endpoint", served.url, "--api-key-variable", "MY_KEY", "--parallel", "3", "--requests-per-minute", "60000"]
    result = CliRunner().invoke(app, [*arguments, *remote, "--json"])
    assert result.exit_code == 0, result.output
    assert {headers["Authorization"] for headers in served.headers} == {f"Bearer {KEY}"}
    served.faults = [fails(401, f"bad key {KEY}")] * 9
    failed = CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "failed"), *remote])
    assert isinstance(failed.exception, FlanlabError)
    assert "bad key [key]" in str(failed.exception)
    written = capfd.readouterr()
    assert KEY not in result.output + failed.output + str(failed.exception) + written.out + written.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert folder / RESPONSES_FILE in files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_options_of_remote_models_need_an_endpoint(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["eval", "rte", "--model", "tiny", "--out", str(tmp_path / "out"), "--parallel", "2"])
    assert result.exit_code == 2
    assert "--endpoint" in result.output


def test_chat_without_a_tokenizer_is_refused(served: Served, tasks: Sequence[Task], tmp_path: Path) -> None:
    with pytest.raises(FlanlabError, match="so is its chat template") as caught:
        evaluate_model("tiny", tasks, SETTINGS, tmp_path / "out", styles=["chat"], endpoint=Endpoint(served.url))
    assert "--tokenizer" in caught.value.hint


def test_best_template_is_chosen_on_dev_and_not_asked_for_twice(
    tiny_folder: Path, tasks: Sequence[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`comments` with a dev split, `counting` without."""
    monkeypatch.setattr(predict, "_QUESTIONS_OF_FIRST_SHARD", 8)
    counting = tasks[1]
    path = tmp_path / "tasks" / "comments.yaml"
    path.write_text(path.read_text().replace("train: all[:10]", "train: all[:4]\n    dev: all[4:10]"))
    settings = SETTINGS.model_copy(update={"templates_per_row": 2})
    chosen = settings.model_copy(update={"choose_template": True})
    plain = evaluate_model(
        str(tiny_folder), [load_task(path), counting], settings, tmp_path / "out", styles=["instruction", "chat"]
    )
    asked: list[str] = []
    real = predict.predict_pairs
    monkeypatch.setattr(
        predict, "predict_pairs", lambda setup, unit, *rest: asked.append(unit.task.name) or real(setup, unit, *rest)
    )
    found = evaluate_model(
        str(tiny_folder), [load_task(path), counting], chosen, tmp_path / "out", styles=["instruction", "chat"]
    )
    assert asked == ["comments"] * 2 * 2, "dev rows once for each style, in two parts, and no test row again"
    again = evaluate_model(
        str(tiny_folder), [load_task(path), counting], chosen, tmp_path / "out", styles=["instruction", "chat"]
    )
    assert again == found
    assert len(asked) == 2 * 2
    assert found is not None
    assert plain is not None
    assert found.tasks["counting"].best_on_dev == {}, "no dev split"
    chosen_templates = found.tasks["comments"].best_on_dev
    assert chosen_templates is not None
    for style, best in chosen_templates.items():
        rows = pq.read_table(tmp_path / "out" / "dev_predictions" / style / "comments").to_pylist()
        assert {(row["row"], row["template"]) for row in rows} == {
            (row, template) for row in range(6) for template in (1, 2, 3)
        }
        right = {
            n: [max(row["option_scores"]) == row["option_scores"][row["answer"]] for row in rows if row["template"] == n]
            for n in (1, 2, 3)
        }
        assert best.dev_scores == {str(n): pytest.approx(sum(hits) / 6) for n, hits in right.items()}
        score = found.scored("task", "comments", "accuracy", BEST_ON_DEV)[style]
        own = found.scored("task", "comments", "accuracy", str(best.template))[style]
        assert score.mean == pytest.approx(own.mean)
    assert plain.scores == [score for score in found.scores if score.template != BEST_ON_DEV]
    assert "no dev split" in write_report(tmp_path / "out").read_text(encoding="utf-8")
    print_results(found)


def test_bfloat16_is_marked_and_keyed(tasks: Sequence[Task], tiny_folder: Path, tmp_path: Path) -> None:
    exact = evaluate_model(str(tiny_folder), tasks, SETTINGS, tmp_path / "both")
    assert exact is not None
    assert (exact.variants["instruction"].trained_in, exact.variants["instruction"].dtype) == (None, "float32")
    before = predictions(tmp_path / "both")
    rounded = evaluate_model(str(tiny_folder), tasks, SETTINGS.model_copy(update={"dtype": "bfloat16"}), tmp_path / "both")
    assert rounded is not None
    assert rounded.variants["instruction"].dtype == "bfloat16"
    after = predictions(tmp_path / "both")
    assert after != before, "predictions of float32 were taken for those of bfloat16"
    pairs = [
        pair
        for one, other in zip(before, after, strict=True)
        for pair in zip(one["option_scores"] or [], other["option_scores"] or [], strict=True)
    ]
    assert pairs
    assert all(other == pytest.approx(one, rel=0.1, abs=0.3) for one, other in pairs)


def test_the_numbers_of_a_server_cannot_be_chosen(tasks: Sequence[Task], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"dtype": "bfloat16"})
    with pytest.raises(FlanlabError, match="numbers that a server computes in"):
        evaluate_model("tiny", tasks, settings, tmp_path, endpoint=Endpoint("http://localhost:1/v1", None))
