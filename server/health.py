"""`python -m server.health`: the health of the cell process with these settings."""

import sys

from server.process.settings import ServerSettings
from server.shell.hosting.health_check import exit_by_health
from server.shell.settings.host import load_settings_or_exit

if __name__ == "__main__":
    exit_by_health(load_settings_or_exit(ServerSettings, sys.argv[1:], program="server.health"))
