"""The command line: one file a group of commands; each file's import line below adds its commands to ``app``.

Exit codes: 0 all went well, 1 a run failed on the way (NaN loss, full disk), 2 the input cannot be used,
130 interrupted,
128 + the signal's number ended by SIGTERM or SIGHUP.
"""

from subspace_tuning.cli import (  # noqa: F401  each adds its commands
    advise,
    analyze,
    bench,
    cache,
    convert,
    curve,
    data,
    demo,
    estimate,
    export,
    fit,
    language,
    leaderboard,
    methods,
    modules,
    pack,
    report,
    reproduce,
    results,
    surgery,
    sweep,
    tasks,
    train,
    use,
)
from subspace_tuning.cli.command import app

__all__ = ["app"]
