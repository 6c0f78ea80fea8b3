"""`python -m router.health`: the health of the router process with these settings."""

import sys

from router.settings import RouterSettings
from server.shell.hosting.health_check import exit_by_health
from server.shell.settings.host import load_settings_or_exit

if __name__ == "__main__":
    exit_by_health(load_settings_or_exit(RouterSettings, sys.argv[1:], program="router.health"))
