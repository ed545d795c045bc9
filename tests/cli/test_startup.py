"""Commands that compute nothing with a model import neither torch nor transformers, which take seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.report.synthetic import make_run
from tests.tiny import save_tiny

HEAVY = ("torch", "transformers", "datasets", "scipy.stats", "pyarrow.dataset")
PROGRAM = """
import json, sys
from flanlab.cli.main import app
for arguments in json.loads(sys.argv[1]):
    app(arguments, standalone_mode=False)
    print(json.dumps([name for name in json.loads(sys.argv[2]) if name in sys.modules]))
"""


def test_light_commands_import_nothing_heavy(tmp_path: Path) -> None:
    run = str(make_run(tmp_path / "run", {"untuned_instruction": 3, "tuned": 5}))
    other = str(make_run(tmp_path / "other", {"instruction": 4}, trained=False))
    commands = [
        ["tasks", "list", "visitor_comments"],
        ["tasks", "show", "visitor_comments"],
        ["tasks", "lint", "visitor_comments"],
        ["report", run],
        ["compare", run, other, "--out", str(tmp_path / "page.html")],
        ["report", "--merge", run, other],
    ]
    asked = [sys.executable, "-c", PROGRAM, json.dumps(commands), json.dumps(HEAVY)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    imported = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[") and line.endswith("]")]
    assert imported == [[]] * len(commands), dict(zip(map(str, commands), imported, strict=False))


PROGRAM_WITH_A_MODEL = """
import json, sys
from flanlab.cli.options import say_loading
say_loading()
import torch
from flanlab import api
print(len(api.score(api.load_model(sys.argv[1]), "Yes or no?", ["yes", "no"])))
print(json.dumps([name for name in ("torch._dynamo", "torch.distributed.tensor", "scipy.optimize") if name in sys.modules]))
print(torch.compile(lambda number: number + 1, backend="eager")(torch.ones(1)).item())
"""


def test_models_are_asked_without_the_compiler_which_still_works(tmp_path: Path) -> None:
    asked = [sys.executable, "-c", PROGRAM_WITH_A_MODEL, str(save_tiny(tmp_path / "tiny"))]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2", "[]", "2.0"]
