from __future__ import annotations

from pathlib import Path

import pytest

from flanlab.tasks.clusters import Cluster
from flanlab.tasks.loading import (
    known_lineage,
    load_collection,
    load_collections,
    load_named,
    load_task,
    own_versions,
    select_tasks,
)
from tests.task_files import generation_content, refusal, task_content, write_task_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_task_file(tmp_path / "deep" / "er", task_content())
    write_task_file(tmp_path, generation_content())
    write_task_file(tmp_path, task_content(name="comments")).rename(tmp_path / "comments.yml")
    return tmp_path


def test_a_folder_is_searched_in_depth_and_in_order_of_name(folder: Path) -> None:
    tasks = load_collection(folder)
    assert [task.name for task in tasks] == ["capitals", "comments", "reviews"]
    assert load_collection(str(folder)) == tasks


def test_a_name_may_occur_once(folder: Path) -> None:
    write_task_file(folder / "other", task_content())
    message = refusal(lambda: load_collection(folder)).message
    assert str(folder / "other" / "reviews.yaml") in message
    assert str(folder / "deep" / "er" / "reviews.yaml") in message
    assert "`reviews`" in message


def test_a_name_may_occur_once_over_all_collections(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write_task_file(other, task_content(name="comments"))
    assert "`comments`" in refusal(lambda: load_collections([folder, other])).message


def test_own_task_replaces_a_built_in_one_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task_file(tmp_path, task_content(name="visitor_comments"))
    for tasks in (load_collections([tmp_path, "sampler"]), load_collections(["sampler", tmp_path])):
        [found] = [task for task in tasks if task.name == "visitor_comments"]
        assert found.path == tmp_path / "visitor_comments.yaml"
    assert load_named(["sampler", tmp_path], ["visitor_comments"])[0].path == tmp_path / "visitor_comments.yaml"
    told = capsys.readouterr().err
    assert told.count("used instead of flanlab's own task") == 1
    assert "visitor_comments" in told
    assert own_versions(tasks) == ["visitor_comments: a task file of the user's own, not flanlab's task of this name."]
    assert own_versions(load_collection("sampler")) == []


def test_sources_of_a_replaced_task_still_count(tmp_path: Path) -> None:
    """An own version that leaves `derived_from` out would otherwise hide an overlap from the hold-out."""
    [built_in] = [task for task in load_collection("library") if task.name == "hellaswag"]
    own = built_in.model_copy(update={"derived_from": {}})
    assert set(built_in.derived_from) <= known_lineage([own])["hellaswag"]
    assert built_in.derived_from


def test_a_folder_that_is_not_there_and_one_without_tasks(tmp_path: Path) -> None:
    error = refusal(lambda: load_collection(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in error.message
    assert "library" in error.hint
    assert str(tmp_path) in refusal(lambda: load_collection(tmp_path)).message


def test_a_faulty_file_is_named(folder: Path) -> None:
    (folder / "deep" / "broken.yaml").write_text("- a list\n")
    assert "broken.yaml" in refusal(lambda: load_collection(folder)).message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "nothing.yaml" in refusal(lambda: load_task(tmp_path / "nothing.yaml")).message


def test_tasks_are_selected_by_name_and_by_cluster(folder: Path) -> None:
    tasks = load_collection(folder)
    assert [task.name for task in select_tasks(tasks, ["reviews"])] == ["reviews"]
    assert [task.name for task in select_tasks(tasks, ["sentiment"])] == ["comments", "reviews"]
    assert [task.name for task in select_tasks(tasks, ["sentiment", "capitals", "reviews"])] == [
        "capitals", "comments", "reviews",
    ]  # fmt: skip
    assert select_tasks(tasks, []) == []


@pytest.mark.parametrize(
    ("wish", "told"),
    [("reviewz", "Did you mean reviews"), ("sentimet", "Did you mean sentiment"), ("zzzzzz", "flan tasks list")],
)
def test_an_unknown_name_gets_near_ones(folder: Path, wish: str, told: str) -> None:
    error = refusal(lambda: select_tasks(load_collection(folder), [wish]))
    assert f"`{wish}`" in error.message
    assert told in error.hint


def test_an_empty_cluster_is_told_from_an_unknown_one(folder: Path) -> None:
    error = refusal(lambda: select_tasks(load_collection(folder), [Cluster.TRANSLATION]))
    assert "has no task" in error.message


def test_named_tasks_are_those_selected_and_other_files_are_not_read(folder: Path) -> None:
    tasks = load_collection(folder)
    for names in (["reviews"], ["capitals", "comments"], ["sentiment"], ["sentiment", "capitals"], []):
        assert load_named([folder], names) == select_tasks(tasks, names)
    assert load_named(["library"], ["arc.easy"]) == select_tasks(load_collection("library"), ["arc.easy"])
    told = refusal(lambda: load_named([folder], ["reviews", "capitols"]))
    assert "capitals" in told.hint
    (folder / "broken.yaml").write_text("- a list\n")
    assert [task.name for task in load_named([folder], ["reviews"])] == ["reviews"]
    assert "broken.yaml" in refusal(lambda: load_named([folder], ["sentiment"])).message
    write_task_file(folder / "other", task_content())
    assert "`reviews`" in refusal(lambda: load_named([folder], ["reviews"])).message


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Reviews", ["reviews"]),
        ("SENTIMENT", ["comments", "reviews"]),
        ("closed-book QA", ["capitals"]),
        ("Closed book qa", ["capitals"]),
        ("rev", ["reviews"]),
        ("senti", ["comments", "reviews"]),
    ],
)
def test_names_are_found_as_people_write_them(folder: Path, name: str, found: list[str]) -> None:
    assert [task.name for task in select_tasks(load_collection(folder), [name])] == found


def test_nli_is_natural_language_inference() -> None:
    assert Cluster("NLI") is Cluster.NATURAL_LANGUAGE_INFERENCE
    assert Cluster("natural language inference") is Cluster.NATURAL_LANGUAGE_INFERENCE
    with pytest.raises(ValueError, match="feelings"):
        Cluster("feelings")


def test_a_beginning_that_several_names_share_is_refused(folder: Path) -> None:
    error = refusal(lambda: select_tasks(load_collection(folder), ["co"]))
    assert "comments" in error.message
    assert "commonsense" in error.message
    assert "coreference" in error.message
