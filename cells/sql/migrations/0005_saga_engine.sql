-- Which engine drives the sagas in flight: two that both did would not do a step twice, but neither would know of the
-- other's pauses. Another one takes over only where none is in flight.
ALTER TABLE head ADD COLUMN saga_engine TEXT NOT NULL DEFAULT 'native';

GRANT UPDATE (saga_engine) ON head TO cellbook_cell;
