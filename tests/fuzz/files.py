"""Targets that read files, without torch: task files, templates, recipes, tables, corpora, results and predictions."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from functools import partial
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from flanlab.data.corpus import corpus_files, read_corpus
from flanlab.data.rendering import prepare_row, render
from flanlab.data.sources import Rows, load_rows
from flanlab.data.table_files import read_table
from flanlab.experiments.recipe import read_recipe
from flanlab.report.training import read_run
from flanlab.results.files import PREDICTION_SCHEMA, read_predictions
from flanlab.results.schema import MEAN
from flanlab.tasks.loading import load_task
from flanlab.tasks.templating import compile_source
from tests.fuzz.mutate import ODD_VALUES, mutated_bytes, mutated_tree
from tests.fuzz.oracle import Case, sealed
from tests.task_files import REVIEWS, generation_content, task_content, write_rows

_ROW = {
    "text": "It rained, of course.",
    "label": 1,
    "country": "Peru",
    "names": ["Lima", "la"],
    "none": None,
    "deep": {"a": [1]},
}


def task_file(random: Random, folder: Path) -> Case:
    """A task file with odd fields or bytes, read and, if it is fine, filled in with a row."""
    tree = random.choice((task_content(), generation_content(), _shipped(random)))
    text = _yaml(random, tree)
    path = folder / f"{tree['name']}.yaml"
    path.write_bytes(text)
    if not (folder / "reviews.jsonl").exists():
        write_rows(folder / "reviews.jsonl", REVIEWS)

    def action() -> None:
        task = load_task(path)
        if task.source is not None and task.source.files is not None:
            rows = load_rows(task, "train")
            for index in range(min(len(rows), 3)):
                row = prepare_row(task, rows[index], index)
                for number in range(1, len(task.templates) + 1):
                    render(task, number, row)

    return Case(action, (path.name, "reviews.jsonl", tree["name"]))


def template(random: Random, folder: Path) -> Case:
    """A template of random or hostile pieces, filled in with a row. It may reach neither Python nor the disk."""
    source = "".join(random.choice(_PIECES) for _ in range(random.choice((1, 1, 2, 3, 6))))
    if random.random() < 0.3:
        source = mutated_bytes(random, source.encode()).decode("utf-8", "replace")

    def action() -> None:
        compiled = compile_source(source)
        with sealed():
            compiled(_ROW)

    (folder / "template.txt").write_text(source, encoding="utf-8")
    return Case(action)


def recipe(random: Random, folder: Path) -> Case:
    """A recipe with odd fields or bytes."""
    path = folder / "recipe.yaml"
    packaged = Path(str(resources.files("flanlab.experiments"))) / "quickstart.yaml"
    path.write_bytes(_yaml(random, yaml.safe_load(packaged.read_text(encoding="utf-8"))))
    return Case(partial(read_recipe, path), (path.name,))


def table(suffix: str, random: Random, folder: Path) -> Case:
    """A table of one format, made of odd cells or with damaged bytes; every cell is read."""
    path = folder / f"rows{suffix}"
    kind = suffix.removesuffix(".gz").removesuffix(".zst")
    if kind in (".parquet", ".arrow"):
        content = _binary(random, kind)
    else:
        content = _text(random, kind)
        if random.random() < 0.5:
            content = mutated_bytes(random, content)
        if suffix.endswith(".gz"):
            content = gzip.compress(content, 1)
        elif suffix.endswith(".zst"):
            content = pa.compress(content, codec="zstd", asbytes=True)
    if random.random() < 0.6:
        content = mutated_bytes(random, content)
    path.write_bytes(content)

    def action() -> None:
        read = read_table(path)
        for row in Rows(read, range(read.num_rows), "hash"):
            dict(row)

    return Case(action, (path.name, "The column "))


def corpus(random: Random, folder: Path) -> Case:
    """A file of a corpus."""
    suffix = random.choice((".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet"))
    path = folder / f"corpus{suffix}"
    if suffix == ".parquet":
        content = _binary(random, ".parquet")
    else:
        content = mutated_bytes(
            random, "".join(json.dumps({"text": text}) + "\n" for text in ("one", "zwei ü", "три")).encode()
        )
        content = gzip.compress(content, 1) if suffix.endswith(".gz") else content
    path.write_bytes(mutated_bytes(random, content) if random.random() < 0.5 else content)
    return Case(lambda: list(read_corpus(corpus_files([path]), random.choice(((), ("a",))))), (path.name,))


def results(random: Random, folder: Path) -> Case:
    """results.json and the other files of a run's folder, one of them damaged."""
    (folder / "training").mkdir(exist_ok=True)
    contents = {"results.json": _RESULTS, "mixture.json": _MIXTURE, "run.json": {"seconds": 1.5}, "training/log.jsonl": _STEP}
    damaged = random.choice(("results.json", "results.json", "results.json", *contents))
    for name, content in contents.items():
        data = json.dumps(content).encode()
        if name == damaged and random.random() < 0.6:
            data = json.dumps(mutated_tree(random, content)).encode("utf-8", "surrogatepass")
        elif name == damaged:
            data = mutated_bytes(random, data)
        (folder / name).write_bytes(data)
    return Case(partial(read_run, folder), tuple(contents))


def predictions(random: Random, folder: Path) -> Case:
    """A file of predictions, damaged or of another schema."""
    path = folder / "shard-00000.parquet"
    if random.random() < 0.7:
        record = dict.fromkeys(PREDICTION_SCHEMA.names)
        content = _as_parquet(pa.Table.from_pylist([record | {"task": "rte", "options": ["a", "b"]}], PREDICTION_SCHEMA))
        content = mutated_bytes(random, content)
    else:
        content = _binary(random, ".parquet")
    path.write_bytes(content)
    (folder / "shard-00001.parquet").write_bytes(_as_parquet(PREDICTION_SCHEMA.empty_table()))
    return Case(lambda: read_predictions(folder).to_pylist(), (path.name,))


def _yaml(random: Random, tree: Any) -> bytes:
    if random.random() < 0.7:
        tree = mutated_tree(random, tree)
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "replace")
    return mutated_bytes(random, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode())


_SHIPPED: list[Path] = sorted(Path(str(resources.files("flanlab.tasks"))).glob("sampler/**/*.yaml"))
_TREES: dict[Path, Any] = {}


def _shipped(random: Random) -> Any:
    path = random.choice(_SHIPPED)
    if path not in _TREES:
        _TREES[path] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return _TREES[path]


def _text(random: Random, kind: str) -> bytes:
    cells: Iterable[Any] = [random.choice((*ODD_VALUES, "plain", 7, 1.5, "a,b", 'say "x"', "two\nlines")) for _ in range(9)]
    cells = list(cells)
    if kind in (".json", ".jsonl"):
        rows = [dict(zip("abc", cells[start : start + 3], strict=True)) for start in (0, 3, 6)]
        if kind == ".json":
            return json.dumps(rows).encode()
        return "".join(json.dumps(row, ensure_ascii=random.random() < 0.5) + "\n" for row in rows).encode("utf-8", "replace")
    separator = "," if kind == ".csv" else "\t"
    quoted = ['"' + str(cell).replace('"', '""') + '"' if random.random() < 0.4 else str(cell)[:80] for cell in cells]
    lines = [separator.join("abc"), *(separator.join(quoted[start : start + 3]) for start in (0, 3, 6))]
    return random.choice(("\n", "\n", "\r\n", "\r")).join(lines).encode("utf-8", "replace")


_COLUMNS: dict[str, pa.Array] = {
    "text": pa.array(["a", None, "\u2028"]),
    "view": pa.array(["a", None, "b"], pa.string_view()),
    "bytes": pa.array([b"a", None, b"\xff"]),
    "fixed": pa.array([b"ab", None, b"\xff\x00"], pa.binary(2)),
    "category": pa.array(["a", "b", "a"]).dictionary_encode(),
    "decimal": pa.array([1, None, 3], pa.decimal128(38, 2)),
    "whole": pa.array([1, None, 2**60], pa.decimal128(38, 0)),
    "time": pa.array([0, None, 2**62], pa.timestamp("ns", "Mars/Phobos")),
    "date": pa.array([0, None, 2**30], pa.date32()),
    "spell": pa.array([0, None, 2**62], pa.duration("ns")),
    "lists": pa.array([[1], None, [2, None]], pa.list_(pa.int32())),
    "large": pa.array([["x"], None, []], pa.large_list(pa.large_string())),
    "struct": pa.array([{"a": 1.5, "b": [{"c": "d"}]}, None, {"a": None, "b": []}]),
    "map": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    "half": pa.array([1.5, None, float("nan")], pa.float16()),
    "single": pa.array([0.1, None, float("inf")], pa.float32()),
    "nothing": pa.nulls(3),
    "unsigned": pa.array([0, None, 2**64 - 1], pa.uint64()),
    "flag": pa.array([True, None, False]),
}


def _binary(random: Random, kind: str) -> bytes:
    names = random.sample(list(_COLUMNS), random.randint(1, 4))
    made = pa.table({name: _COLUMNS[name] for name in names})
    if kind == ".parquet":
        try:
            return _as_parquet(made, random.choice(("snappy", "zstd", "gzip", "none")))
        except pa.ArrowException:  # of types that Parquet does not have
            return _as_parquet(pa.table({"text": _COLUMNS["text"]}))
    sink = pa.BufferOutputStream()
    make: Callable[..., Any] = random.choice((pa.ipc.new_file, pa.ipc.new_stream))
    with make(sink, made.schema) as writer:
        writer.write_table(made)
    return sink.getvalue().to_pybytes()


def _as_parquet(made: pa.Table, compression: str = "snappy") -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(made, sink, compression=compression)
    return sink.getvalue().to_pybytes()


_SCORE = {"level": "task", "task": "rte", "cluster": "nli", "metric": "accuracy", "variant": "tuned", "mean": 0.5, "rows": 4}
_RESULTS = {
    "format": 2,
    "name": "a run",
    "variants": {"tuned": {"title": "tuned", "model": "some/model"}},
    "tasks": {
        "rte": {
            "clusters": ["nli"],
            "rows": 4,
            "templates": [1, 2],
            "main_metric": "accuracy",
            "metrics": {"accuracy": {"title": "accuracy", "definition": "share of right answers", "chance": 0.5}},
        }
    },
    "scores": [_SCORE, {**_SCORE, "template": "1", "low": 0.1, "high": 0.9}, {**_SCORE, "template": MEAN}],
}
_MIXTURE = {
    "planned_examples": 4,
    "measured_examples": 4,
    "cycle_length": 8,
    "tasks": {
        "rte": dict.fromkeys(("rows", "epochs", "examples", "tokens", "target_tokens", "shortened"), 1)
        | {"cluster": "nli", "dropped": {}}
    },
}
_STEP = {"step": 1, "loss": 2.5, "examples": 4, "tokens": 90, "target_tokens": 8, "seconds": 0.5, "dev_loss": {"nli": 1.0}}

_PIECES = (
    "{{ text }}", "{{ label + 1 }}", "{{ names[0] }}", "{{ names | join(', ') }}", "{{ deep.a }}", "{{ none }}", "{{ missing }}",
    "text ", "{{ text", "{% for n in names %}{{ n }}{% endfor %}", "{% if label %}yes{% endif %}", "{{ deep | tojson }}",
    "{{ names | map('replace', 'L', 'l') | list }}", "{% set x = text %}{{ x }}", "{{ row.text }}", "{# note #}", "{{ range(9) | list }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__.os.popen('id').read() }}", "{{ self }}",
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}{{ os }}", "{% extends text %}", "{{ lipsum.__globals__ }}",
    "{{ text.format.__globals__ }}", "{{ '{0.__class__.__init__.__globals__}'.format(text) }}", "{{ (text|attr('__class__')) }}",
    "{{ '{0.__class__}' | format(text) }}", "{{ namespace.__init__.__globals__ }}", "{{ joiner.__init__ }}", "{{ dict.__base__ }}",
    "{{ names.append(1) }}", "{{ deep.update({}) }}", "{{ text.__add__ }}", "{{ 'x' * 10 ** 10 }}", "{{ 10 ** 1000000000 }}",
    "{{ names * 999999999 }}", "{{ text | center(99999999999) }}", "{{ '%9999999999d' % 1 }}", "{{ '{:>9999999999}'.format(1) }}",
    "{{ text.ljust(9999999999) }}", "{{ text.zfill(9999999999) }}", "{{ text | indent(9999999999) }}", "{{ '%s' | format(text) }}",
    "{{ range(10 ** 9) | list }}",
    "{{ text | replace('', text * 9) }}", "{{ 'a' | wordwrap(0) }}", "{{ names | batch(0) | list }}", "{{ names | slice(0) | list }}",
    "{{ 1 / 0 }}", "{{ 9999999 ** 9999999 }}", "{{ 1 << 99999999999 }}", "{{ text | truncate(-5) }}", "{{ deep | pprint }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ text | urlize }}", "{{ debug() }}", "{{ caller() }}", "{{ loop }}",
    "{% call text() %}{% endcall %}", "{% filter upper %}x{% endfilter %}", "{{ text.encode().decode }}", "{{ names.__class__ }}",
    "{{ '\\x00' }}", "{{ text | xmlattr }}", "{{ deep | dictsort }}", "{{ names | sum }}", "{{ names | random }}", "{{ text[::-1] }}",
    "{{ text[:10**30] }}", "{{ text | int(10**9) }}", "{{ '9' * 5000 | int }}", "{{ text.expandtabs(9999999999) }}", "%", "{", "}}",
    "{{ text | batch(99999999999, 'x') | list }}", "{{ '{:{}}'.format(1, 9999999999) }}", "{{ '%*d' % (9999999999, 1) }}", "{{ text.translate }}",
)  # fmt: skip

TARGETS: dict[str, Callable[[Random, Path], Case]] = {
    "task_file": task_file,
    "template": template,
    "recipe": recipe,
    **{
        f"table{suffix}": partial(table, suffix)
        for suffix in (
            ".csv",
            ".tsv",
            ".json",
            ".jsonl",
            ".csv.gz",
            ".jsonl.gz",
            ".jsonl.zst",
            ".tsv.zst",
            ".parquet",
            ".arrow",
        )
    },
    "corpus": corpus,
    "results": results,
    "predictions": predictions,
}
