"""`python -m worker`: one worker process. `python -m worker --health`: is it alive?"""

import argparse
import sys

from rankpress.service import logs
from rankpress.service.settings import Settings
from worker.jobs import heartbeat, service


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument(
        "--health", action="store_true", help="exit 0 if the worker of this name is alive"
    )
    arguments = parser.parse_args()
    settings = Settings()
    logs.configure(settings.log_level)
    if arguments.health:
        return 0 if heartbeat.is_fresh(settings) else 1
    service.run(settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
