"""The pages of this room."""

from server.console.pages import Page
from server.console.support import find, things, user

PAGES: tuple[Page, ...] = (*find.PAGES, *user.PAGES, *things.PAGES)
