"""The command line as a test types it."""

import json

from typer.testing import CliRunner

from subspace_tuning.cli import app


def subspace(*words):
    """(exit code, standard output, standard error)."""
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "120", "NO_COLOR": "1"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def words_of(values):
    return [f"{key}={json.dumps(value)}" for key, value in values.items() if key != "output"]
