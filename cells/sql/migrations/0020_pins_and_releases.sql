-- An arrival takes note of the legs that have pinned holds or freed bids as well. Most releases are of no leg.
DROP INDEX moved_events_carried;
CREATE INDEX moved_events_arrival ON moved_events (aggregate_id, cell, position) WHERE event_type IN (
    'DEPOSITED', 'WITHDRAWN', 'ESCROW_SENT', 'ESCROW_RETURNED', 'PENDING_CREDITED', 'PENDING_REVERSED',
    'PENDING_SETTLED', 'PARTY_NOTIFIED', 'REMOTE_TRANSFER_RECEIVED')
    OR (event_type IN ('HOLD_PINNED', 'FUNDS_RELEASED') AND metadata ? 'leg');
