"""`flan compare`: two models on the same questions, or two wordings of the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import flanlab as fl
from flanlab.cli.options import AsJson, say_reading

if TYPE_CHECKING:
    from flanlab.report.wordings import TemplateComparison

_SHOWN_FLIPS = 5
"""Rows of each direction on a terminal."""


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="Folder of `flan run` or `flan eval`; FOLDER:VARIANT picks a variant.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The folder that is compared with it.")],
    templates: Annotated[
        bool,
        typer.Option(
            "--templates",
            help="Compare wordings: two versions of a task file, or two templates, named FOLDER:TASK:TEMPLATE.",
        ),
    ] = False,
    margin: Annotated[
        float | None, typer.Option(min=0.01, help="Also test whether the two differ by less than this many points.")
    ] = None,
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="An HTML page to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two folders on the questions both were asked, paired: B minus A, with intervals and corrected p-values.

    Example: flan compare runs/first runs/second:untuned_instruction --out comparison.html

    Example: flan compare --templates runs/before runs/after

    Example: flan compare --templates runs/eval:rte:3 runs/eval:rte:7
    """
    say_reading(f"{first} and {second}")
    share = None if margin is None else margin / 100
    if templates:
        wordings = fl.compare_templates(first, second, margin=share)
        if out is not None:
            wordings.write_page(out)
        if as_json:
            typer.echo(wordings.wordings.model_dump_json(indent=1))
        else:
            _print_wordings(wordings)
    else:
        from flanlab.cli.tables import print_comparison
        from flanlab.results.files import as_text

        found = fl.compare(first, second, margin=share)
        if out is not None:
            found.write_page(out)
        if as_json:
            typer.echo(as_text(found.results), nl=False)
        else:
            print_comparison(found.results)
    if out is not None and not as_json:
        typer.echo(f"Page: {out}")


def _print_wordings(comparison: TemplateComparison) -> None:
    """Both wordings, a table of scores, and flipped rows of each pair; then the sentences."""
    from rich.text import Text

    from flanlab.cli.tables import print_lines, print_sides, print_table, result_console
    from flanlab.report.wordings import directions, pair_table, pair_title, prompt_ends, word_diff

    console = result_console()
    found = comparison.wordings
    print_sides(found.results)
    for pair in found.pairs:
        console.print(Text(f"\n{pair_title(pair)}", "bold"), soft_wrap=True)
        diff = Text()
        for mark, text in word_diff(pair.wording_a, pair.wording_b):
            before, after, style = {"=": ("", "", ""), "-": ("[-", "-]", "red"), "+": ("{+", "+}", "green")}[mark]
            diff.append(f"{before}{text}{after}", style)
        console.print(diff, soft_wrap=True)
        print_table(pair_table(found, pair, headlines=True))
        for title, flips in directions(pair):
            typer.echo(f"  {title}: {len(flips)} of {pair.rows} rows")
            for flip in flips[:_SHOWN_FLIPS]:
                answers = f"A {_short(flip.a.answer)}, B {_short(flip.b.answer)}, right {_short(' / '.join(flip.references))}"
                typer.echo(f"    row {flip.row}: {prompt_ends(flip.b.prompt)}\n      {answers}")
            if len(flips) > _SHOWN_FLIPS:
                typer.echo(f"    and {len(flips) - _SHOWN_FLIPS} more: see --out or --json")
    typer.echo()
    print_lines(*comparison.verdict)


def _short(text: str, length: int = 40) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= length else f"{flat[: length - 3]}...")
