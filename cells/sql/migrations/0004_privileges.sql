-- The cell writes the log only by appending to it; the auditor reads. Neither owns a table.

GRANT USAGE ON SCHEMA public TO cellbook_cell, cellbook_auditor;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO cellbook_cell, cellbook_auditor;

GRANT INSERT ON event_store, account_entries, clearing_entries, saga_legs, external_references TO cellbook_cell;
GRANT INSERT, UPDATE ON accounts, assets, auctions, sagas, house_balances TO cellbook_cell;

-- Whose database it is, which command an outcome answers and under which fingerprint: said once.
GRANT INSERT (cell), UPDATE (epoch, position, hlc_bound_ms, beat) ON head TO cellbook_cell;
GRANT INSERT, UPDATE (outcome, position, hlc_physical, hlc_logical) ON command_outcomes TO cellbook_cell;

REVOKE ALL ON FUNCTION keep_outcome_partitions(TIMESTAMPTZ) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keep_outcome_partitions(TIMESTAMPTZ) TO cellbook_cell;
