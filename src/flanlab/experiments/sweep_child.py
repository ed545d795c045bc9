"""One of the processes that carry out a sweep's job together: `python -m flanlab.experiments.sweep_child FILE`.

State, lock and record of the job stay with the process that started them (`sweep_jobs.carry_out`).
"""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from pathlib import Path

from flanlab.errors import FlanlabError
from flanlab.experiments.sweep_jobs import error_text, read_job, work
from flanlab.experiments.torchrun import end_with_launcher


def main(job_file: Path) -> int:
    """Take part in the job that a file tells of; the first error of all processes is left beside it.

    Returns:
        The exit status.
    """
    end_with_launcher()
    job = read_job(job_file)
    try:
        work(job)
    except KeyboardInterrupt:
        return 1
    except Exception as error:
        # All fail where one does: the first knows why, the others that it has gone.
        with suppress(FileExistsError), job.error_file.open("x", encoding="utf-8") as file:
            file.write(error_text(error))
            if isinstance(error, FlanlabError):
                print(f"flan: {error}", file=sys.stderr, flush=True)
            else:
                traceback.print_exception(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
