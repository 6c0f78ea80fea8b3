"""`python -m server.health`: the health of the cell process with these settings."""

import sys

from server.settings import ServerSettings
from server.shell.config import load_settings_or_exit
from server.shell.health import exit_by_health

if __name__ == "__main__":
    exit_by_health(load_settings_or_exit(ServerSettings, sys.argv[1:], program="server.health"))
