-- What has ended is kept for a while, and then forgotten: the log has what there is to know of it.

CREATE INDEX outbox_ended ON outbox (ended_at) WHERE ended_at IS NOT NULL;

GRANT DELETE ON outbox TO cellbook_cell;
