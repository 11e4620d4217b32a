"""Where the service's code is: `app` and `worker` are no part of the installed package, so that no
caller's own `app` is shadowed. They run from a checkout or from the image."""

from __future__ import annotations

import os
from pathlib import Path

import rankpress
from rankpress.cli.problems import Failed

PARTS = ("app/__main__.py", "worker/__main__.py", "rankpress/__init__.py")


def find() -> Path:
    """The folder that holds `app`, `worker` and `rankpress`: where this package lies, else the
    current one. Raises `Failed` with what to do."""
    for root in (Path(rankpress.__file__).resolve().parent.parent, Path.cwd()):
        if all((root / part).is_file() for part in PARTS):
            return root
    raise Failed(
        "the service's code (app, worker) is not here: it runs from a checkout or the container "
        "image. Clone the repository, `pip install -e '.[cli,server,worker]'` in it, and run "
        "this command there; the installed package alone is the client"
    )


def environment(root: Path) -> dict[str, str]:
    """That of this process with the checkout on the path. Children run with `-P`: their current
    folder is the caller's, and nothing in it is imported."""
    path = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
