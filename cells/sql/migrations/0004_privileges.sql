-- The cell writes the log only by appending to it; the auditor reads. Neither owns a table.

GRANT USAGE ON SCHEMA public TO cellbook_cell, cellbook_auditor;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO cellbook_cell, cellbook_auditor;

GRANT INSERT ON event_store, account_entries, clearing_entries, saga_legs, external_references TO cellbook_cell;
GRANT INSERT, UPDATE ON head, accounts, assets, auctions, sagas, house_balances, command_outcomes TO cellbook_cell;

REVOKE ALL ON FUNCTION keep_outcome_partitions(TIMESTAMPTZ, INTERVAL) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keep_outcome_partitions(TIMESTAMPTZ, INTERVAL) TO cellbook_cell;
