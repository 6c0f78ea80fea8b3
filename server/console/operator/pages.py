"""The pages of this room."""

from server.console.operator import cells, doctor, evacuations, moves, rebuild, sagas
from server.console.pages import Page

PAGES: tuple[Page, ...] = (*cells.PAGES, *evacuations.PAGES, *sagas.PAGES, *rebuild.PAGES, *moves.PAGES, *doctor.PAGES)
