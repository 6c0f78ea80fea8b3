"""The pages of this room."""

from server.console.pages import Page

PAGES: tuple[Page, ...] = ()
