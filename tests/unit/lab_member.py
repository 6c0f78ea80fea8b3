"""Replaces a cell or a router in tests of starting and stopping; FILE says how it behaves."""

import json
import signal
import sys
import time
import tomllib
from pathlib import Path


def main() -> None:
    settings = tomllib.loads(Path(sys.argv[2]).read_text())
    behaviour = settings["behaviour"]
    print(f"this one {behaviour}", flush=True)
    if behaviour == "dies":
        sys.exit(3)
    if behaviour == "stays deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour != "is never ready":
        Path(settings["ready_file"]).write_text(json.dumps({"name": settings["name"]}))
    while True:
        time.sleep(0.1)


if __name__ == "__main__":
    main()
