"""The command line as a test types it."""

import json
import multiprocessing
import os
import sys

from typer.testing import CliRunner

from subspace_tuning.__main__ import main
from subspace_tuning.cli import app


def subspace(*words):
    """(exit code, standard output, standard error)."""
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "120", "NO_COLOR": "1"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def words_of(values):
    return [f"{key}={json.dumps(value)}" for key, value in values.items() if key != "output"]


def started(*words, err=os.devnull):
    """The command line in a process of its own, which says what it has to say into a file. A fork: nothing is imported
    anew.
    """

    def work():
        with open(err, "w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            sys.stdout = sys.stderr = said
            sys.argv = ["subspace", *(str(word) for word in words)]
            main()

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process
