"""The task file: one data set with its templates, as pydantic models. Their JSON Schema is published for editors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    field_validator,
    model_validator,
)

from flanlab.arguments import checked
from flanlab.errors import FlanlabError
from flanlab.settings import without_example
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.fields import Expression, Jinja, Options, as_the_answer, checked_options
from flanlab.tasks.templating import check_syntax, variables_in

if TYPE_CHECKING:
    from flanlab.data.rendering import Example

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Metric = Literal[
    "accuracy",
    "matthews",
    "multirc_f1a",
    "multirc_exact_match",
    "pearson",
    "spearman",
    "exact_match",
    "f1",
    "trivia_qa_f1",
    "drop_f1",
    "rouge",
    "bleu",
    "edit_similarity",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=without_example)


class Source(_Strict):
    """Where rows come from: the Hugging Face Hub (or a mirror folder of it), files next to the task file, or a generator."""

    hub: str | None = Field(default=None, description="Hub id of the data set, such as nyu-mll/glue.")
    formerly: str | None = Field(
        default=None, description="Earlier Hub id of the same rows, under which a mirror may have them."
    )
    config: str | None = Field(default=None, description="Configuration (subset) of the Hub data set.")
    revision: str | None = Field(default=None, description="Commit of the Hub data set.")
    files: dict[str, str] | str | None = Field(
        default=None,
        description="One file (the split `all`), or split names with their files: Parquet, Arrow, JSON, JSONL, CSV or TSV.",
    )
    generator: str | None = Field(default=None, description="Name of an installed generator of rows, such as mathematics.")
    obtain: str | None = Field(
        default=None,
        description="How to get the rows by hand if the Hub's copy cannot be loaded. They are then read from the mirror only.",
    )
    splits: dict[Split, str] = Field(
        default_factory=dict, description="train, dev and test in Hugging Face slicing syntax, e.g. train[:-200]."
    )

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if sum(place is not None for place in (self.hub, self.files, self.generator)) != 1:
            raise ValueError("give exactly one of `hub`, `files` or `generator`")
        if self.hub is None and (self.revision or self.obtain or self.formerly):
            raise ValueError("`revision`, `formerly` and `obtain` belong to a `hub` source")
        if self.files is not None and self.config:
            raise ValueError("`config` belongs to a `hub` or `generator` source")
        if self.files is None and not self.splits:
            raise ValueError("this source needs `splits`, such as {train: train, test: validation}")
        if isinstance(self.files, str) and not self.splits:
            raise ValueError('a single file needs `splits`, such as {train: "all[:80%]", test: "all[80%:]"}')
        if isinstance(self.files, dict) and not self.splits and not set(self.files) <= {"train", "dev", "test"}:
            raise ValueError("name the files train, dev and test, or assign them in `splits`")
        return self

    def split_spec(self, split: Split) -> str | None:
        """The slicing expression of a split, or None if the task has no such split."""
        if self.splits:
            return self.splits.get(split)
        return split if isinstance(self.files, dict) and split in self.files else None


class _Prompt(_Strict):
    """Jinja sources of a prompt and of the target that follows it."""

    prompt: Jinja
    target: Annotated[Jinja, AfterValidator(as_the_answer)] = "{{ answer }}"


class Template(_Prompt):
    """One natural-language instruction. It does not mention OPTIONS: the renderer adds that block."""

    direction: Literal["forward", "inverted"] = Field(
        default="forward", description="inverted: the prompt contains the answer and the target is an input (section 2.1)."
    )
    options: Annotated[list[str] | None, AfterValidator(checked_options)] = Field(
        default=None, description="Other words for the task's options in this template: same number, same order."
    )

    def listed(self, options: Sequence[str]) -> str:
        """The OPTIONS block."""
        return "OPTIONS:\n" + "\n".join(f"- {option}" for option in options)

    @property
    def hash(self) -> str:
        """Hash of the template. It changes with any word of it."""
        return _digest(self.model_dump_json())


class Baseline(_Prompt):
    """A prompt without an instruction, for untuned models: a text that the answer continues, after one space."""

    options: Annotated[Options | None, AfterValidator(checked_options)] = Field(
        default=None, description="Other words for the task's options: same number, same order."
    )


class Task(_Strict):
    """One data set with its templates.

    A task file has the same fields. `docs/add-a-task.md` explains each.
    A task of your own is made from a file of rows. Relative paths start at the working folder.

    Raises:
        pydantic.ValidationError: a field is missing, unknown or wrong. The message lists all errors.

    Examples:
        >>> import flanlab as fl, pyarrow as pa, pyarrow.parquet as pq
        >>> rows = [{"text": "Best dumplings in town.", "stars": 5}, {"text": "The soup was cold.", "stars": 1}]
        >>> folder.mkdir()
        >>> pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")  # or frame.to_parquet(...)
        >>> task = fl.Task(
        ...     name="reviews",
        ...     cluster="sentiment",
        ...     licence="CC0-1.0",
        ...     source={"files": str(folder / "rows.parquet"), "splits": {"test": "all"}},
        ...     options=["bad", "good"],
        ...     answer="{{ options[1 if stars > 3 else 0] }}",
        ...     metrics=["accuracy"],
        ...     templates=[{"prompt": "{{ text }}\\nIs this review good or bad?"}],
        ... )
        >>> task
        Task reviews (sentiment): 1 template, 2 options, accuracy
        >>> task.render(row=1).target
        'bad'
    """

    name: Name
    cluster: Cluster | Annotated[list[Cluster], Field(min_length=1)] = Field(
        description="The task type, or several if the data set belongs to several."
    )
    description: str = ""
    source: Source | None = None
    # Under this name they are part of the task's hash, so another one would make predictions and checkpoints useless.
    subtasks: dict[Name, Source] = Field(
        default_factory=dict,
        serialization_alias="parts",
        description="Instead of `source`: subtasks that train together and are evaluated separately, such as ANLI's rounds.",
    )
    published_rows: dict[str, int] = Field(
        default_factory=dict, description="Number of published rows of each split, for information only."
    )
    licence: str
    citation: str = ""
    provenance: str = ""
    derived_from: dict[str, str] = Field(
        default_factory=dict,
        description="Data sets whose rows or texts this one reuses, each with the evidence. The hold-out follows them.",
    )
    turns: Expression | None = Field(
        default=None,
        description="Expression: how many examples a row holds, such as the turns of a dialogue. The row is used once for"
        " each of them. A column `turn` counts from 0.",
    )
    filter: Expression | None = Field(default=None, description="Expression. Rows for which it is false are left out.")
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="Names that templates may use, with their expressions. If empty: the columns under their own names.",
    )
    options: Annotated[Options | None, AfterValidator(checked_options)] = Field(
        default=None, description="Classification only: the possible answers."
    )
    answer: Jinja
    references: Expression | None = Field(
        default=None, description="Expression: all acceptable answers. With `options`: the options that are right."
    )
    gold_value: Expression | None = Field(
        default=None, description="Expression: the number that a numeric answer is compared with."
    )
    group: Jinja | None = Field(
        default=None, description="Text. Rows with the same text belong together: either all of them are evaluated or none."
    )
    metrics: list[Metric] = Field(min_length=1)
    templates: list[Template] = Field(min_length=1)
    baseline: Baseline | None = Field(default=None, description="A prompt without an instruction, for untuned models.")

    _path: Path | None = PrivateAttr(None)
    _whole: Task | None = PrivateAttr(None)

    @field_validator("fields")
    @classmethod
    def _valid_fields(cls, value: dict[str, str]) -> dict[str, str]:
        for name, source in value.items():
            if name in ("options", "answer", "references"):
                raise ValueError(f"`{name}` has another meaning in a task; choose another name for the field")
            try:
                check_syntax(source)
            except FlanlabError as error:
                raise ValueError(f"field {name}: {error.message}") from error
        return value

    @field_validator("derived_from")
    @classmethod
    def _has_evidence(cls, value: dict[str, str]) -> dict[str, str]:
        for name, evidence in value.items():
            if not evidence.strip():
                raise ValueError(f"give the evidence that the data set reuses {name}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        if (self.source is None) == (not self.subtasks):
            raise ValueError("give either `source`, or `subtasks` with a source each")
        if (self.options is None) != ("accuracy" not in self.metrics):
            raise ValueError("tasks with `options` need the metric `accuracy`, and only they may have it")
        for field, metrics in _METRICS_THAT_NEED.items():
            if (needy := sorted(metrics & set(self.metrics))) and getattr(self, field) is None:
                raise ValueError(f"the metric {needy[0]} needs `{field}`")
        if self.group is not None and (alone := sorted({"pearson", "spearman"} & set(self.metrics))):
            raise ValueError(f"the metric {alone[0]} does not work on groups of rows: leave out `group`")
        if not self.forward_templates():
            raise ValueError("at least one template must be forward, that is, ask for the answer")
        for number, template in enumerate(self.templates, start=1):
            if template.options is not None and (
                not isinstance(self.options, list) or len(template.options) != len(self.options)
            ):
                raise ValueError(f"template {number}: its options must match the task's fixed list in number")
            self._check_names(f"template {number}", template, inverted=template.direction == "inverted")
        if self.baseline is not None:
            fixed = self.baseline.options if isinstance(self.baseline.options, list) else self.options
            if self.baseline.options is not None and not self.options:
                raise ValueError("baseline: it has options, but the task has none")
            if isinstance(self.options, list) and isinstance(fixed, list) and len(fixed) != len(self.options):
                raise ValueError("baseline: its options must match the task's fixed list in number")
            self._check_names("baseline", self.baseline, inverted=False)
        return self

    def _check_names(self, where: str, template: Template | Baseline, *, inverted: bool) -> None:
        if not self.fields:
            if not inverted and "answer" in variables_in(template.prompt):
                raise ValueError(f"{where}: a forward prompt may not contain the answer")
            if not inverted and "row" in variables_in(template.prompt):
                raise ValueError(
                    f"{where}: the prompt uses `row`, which also holds the answer: put what it shows into `fields`"
                )
            return
        known = set(self.fields) | ({"options"} if self.options is not None else set())
        for side, source in (("prompt", template.prompt), ("target", template.target)):
            allowed = known | ({"answer"} if side == "target" or inverted else set())
            unknown = variables_in(source) - allowed - _JINJA_GLOBALS
            if unknown == {"answer"}:
                raise ValueError(f"{where}: a forward prompt may not contain the answer")
            if unknown:
                raise ValueError(
                    f"{where}: {side} uses {', '.join(sorted(unknown))}, which is no field (fields: {', '.join(self.fields)})"
                )

    def __repr__(self) -> str:
        fixed = isinstance(self.options, list)
        options = [] if self.options is None else [f"{len(self.options)} options" if fixed else "options by row"]
        templates = f"{len(self.templates)} template{'' if len(self.templates) == 1 else 's'}"
        clusters = ", ".join(cluster.value for cluster in self.clusters)
        return f"Task {self.name} ({clusters}): {', '.join([templates, *options, *self.metrics])}"

    __str__ = __repr__

    @property
    def clusters(self) -> tuple[Cluster, ...]:
        """The clusters of the task. The first one is its home: averages count the task there."""
        return tuple(self.cluster) if isinstance(self.cluster, list) else (self.cluster,)

    @property
    def sources(self) -> dict[str | None, Source]:
        """Where the rows come from: the source of each subtask, or the one source under None."""
        sources: dict[str | None, Source] = {None: self.source} if self.source is not None else {}
        sources.update(self.subtasks)
        return sources

    @checked
    def render(
        self,
        row: int = 0,
        template: int = 1,
        *,
        split: Split | None = None,
        options: Literal["fixed", "none"] = "fixed",
        mirror: str | Path | None = None,
    ) -> Example:
        """One of the task's rows seen through one of its templates, as `flan tasks show` shows it.

        Args:
            row: number of the row within its split, from 0.
            template: number of the template, from 1; 0 is the baseline prompt.
            split: `train`, `dev` or `test`. Default: the first that the task has.
            options: list the OPTIONS in the task's own order, or leave the block out.
            mirror: folder with copies of Hub data sets. Default: FLANLAB_MIRROR, or else the Hub.

        Returns:
            `prompt`, `target`, `options` (empty for generation) and `references`.

        Raises:
            FlanlabError: there is no such row or template, or the rows cannot be reached.

        Examples:
            >>> import flanlab as fl
            >>> example = fl.load_task("visitor_comments").render(row=0, template=3)
            >>> example.options
            ('thumbs down', 'thumbs up')
            >>> example.target in example.options
            True
        """
        # The one step up from here: reading rows and filling templates is the business of `data`.
        from flanlab.data.rendering import BASELINE, prepare_row, render
        from flanlab.data.sources import load_rows

        chosen = next(filter(self.has_split, SPLITS)) if split is None else split
        rows = load_rows(self, chosen, None if mirror is None else Path(mirror))
        if not 0 <= row < len(rows):
            raise FlanlabError(
                f"{self.name}: the {chosen} split has rows 0 to {len(rows) - 1}, not {row}.", hint="Use one of these numbers."
            )
        if not BASELINE <= template <= len(self.templates):
            raise FlanlabError(
                f"{self.name} has templates 1 to {len(self.templates)}, not {template}.",
                hint="Use one of these numbers, or 0 for the baseline prompt.",
            )
        prepared = prepare_row(self, rows[row], row)
        return render(self, template, prepared, range(len(prepared.options)) if options == "fixed" else None)

    def has_split(self, split: Split) -> bool:
        """Whether any source of the task names this split."""
        return any(source.split_spec(split) is not None for source in self.sources.values())

    def subtask(self, name: str) -> Task:
        """The task narrowed to one of its subtasks, named `<task>.<subtask>`; it counts as derived from the whole task.

        Raises:
            FlanlabError: there is no such subtask.
        """
        if name not in self.subtasks:
            known = f"Its subtasks are: {', '.join(self.subtasks)}." if self.subtasks else f"Write {self.name} alone."
            raise FlanlabError(f"{self.path}: the task {self.name} has no subtask `{name}`.", hint=known)
        lineage = {**self.derived_from, self.name: "a part of it"}
        subtask = self.model_copy(
            update={"name": f"{self.name}.{name}", "subtasks": {name: self.subtasks[name]}, "derived_from": lineage}
        )
        subtask._whole = self.whole
        return subtask

    def without_subtask(self, name: str) -> Task:
        """The task without one of its subtasks.

        Raises:
            FlanlabError: there is no such subtask, or it is the only one.
        """
        self.subtask(name)
        if len(self.subtasks) == 1:
            raise FlanlabError(
                f"{self.path}: {name} is the only subtask of {self.name}.", hint=f"Leave out {self.name} as a whole."
            )
        return self.model_copy(update={"subtasks": {key: source for key, source in self.subtasks.items() if key != name}})

    def evaluated_subtasks(self, split: Split) -> list[Task]:
        """What is evaluated separately: each subtask that has the split, or the task itself if it has no subtasks."""
        if not self.subtasks or "." in self.name:
            return [self]
        return [self.subtask(name) for name, source in self.subtasks.items() if source.split_spec(split) is not None]

    @property
    def whole(self) -> Task:
        """The task that this one is a subtask of; itself if it is whole."""
        return self._whole or self

    @property
    def exemplar_source(self) -> Task:
        """The task whose train rows are exemplars for this one: itself, or the whole task if a subtask has no train split."""
        return self if self.has_split("train") else self.whole

    @property
    def path(self) -> Path:
        """The file the task was read from. A task made in Python stands where its file would: its rows are relative to it."""
        return self._path or Path(f"{self.whole.name}.yaml")

    @property
    def is_classification(self) -> bool:
        """Whether the answer is one of a row's options."""
        return self.options is not None

    @property
    def hash(self) -> str:
        """Hash of the task file's content. It changes with anything that shapes examples."""
        return _digest(self.model_dump_json(by_alias=True))

    def forward_templates(self) -> list[int]:
        """Numbers (from 1) of the templates that ask for the answer. Only these are evaluated."""
        return [n for n, template in enumerate(self.templates, start=1) if template.direction == "forward"]


_METRICS_THAT_NEED: Mapping[str, frozenset[str]] = {
    "options": frozenset({"matthews", "multirc_f1a", "multirc_exact_match"}),
    "gold_value": frozenset({"pearson", "spearman"}),
    "group": frozenset({"multirc_exact_match"}),
}
_JINJA_GLOBALS = frozenset({"range", "dict", "cycler", "joiner", "namespace"})


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def json_schema() -> Mapping[str, Any]:
    """The JSON Schema of a task file, for editors and other programs."""
    schema = Task.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "flanlab task", **schema}
