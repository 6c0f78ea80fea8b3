-- Invariants of a cell: each query returns the rows that violate one, which its name describes. Only the tables are
-- queried, without any of our code.

-- name: postings_of_an_event_do_not_sum_to_zero
SELECT e.position, p->>'currency', sum((p->>'amount_minor')::numeric)
FROM event_store e, jsonb_array_elements(e.payload->'postings') p
GROUP BY e.position, p->>'currency' HAVING sum((p->>'amount_minor')::numeric) <> 0

-- name: positions_have_gaps
SELECT position FROM (SELECT position, row_number() OVER (ORDER BY position) AS n FROM event_store) s
WHERE position <> n

-- name: the_head_is_not_the_last_position
SELECT position FROM head WHERE position <> (SELECT coalesce(max(position), 0) FROM event_store)

-- name: stream_versions_have_gaps
SELECT aggregate_id FROM event_store GROUP BY aggregate_id
HAVING min(stream_version) <> 1 OR max(stream_version) <> count(*)

-- name: the_hybrid_logical_clock_does_not_rise
SELECT position FROM (
    SELECT position, (hlc_physical, hlc_logical) > (
        lag(hlc_physical) OVER w, lag(hlc_logical) OVER w) AS rises
    FROM event_store WINDOW w AS (ORDER BY position)
) s WHERE rises IS FALSE

-- name: the_bound_of_the_clock_is_behind_the_last_stamp
SELECT hlc_bound_ms FROM head
WHERE hlc_bound_ms <= (SELECT hlc_physical FROM event_store ORDER BY position DESC LIMIT 1)

-- name: the_own_entry_of_a_vector_clock_is_not_the_position
SELECT e.position FROM event_store e, head h WHERE (e.vector_clock->>h.cell)::bigint <> e.position

-- name: a_bucket_went_below_zero
SELECT position FROM account_entries
WHERE available_after < 0 OR reserved_after < 0 OR pending_after < 0

-- name: an_account_entry_is_not_the_running_sum_of_the_postings
WITH changes AS (
    SELECT split_part(p->>'account', '/', 2)::uuid AS account_id, p->>'currency' AS currency, e.position,
           coalesce(sum((p->>'amount_minor')::bigint) FILTER (WHERE p->>'account' LIKE '%/available'), 0) AS a,
           coalesce(sum((p->>'amount_minor')::bigint) FILTER (WHERE p->>'account' LIKE '%/reserved'), 0) AS r,
           coalesce(sum((p->>'amount_minor')::bigint) FILTER (WHERE p->>'account' LIKE '%/pending'), 0) AS p
    FROM event_store e, jsonb_array_elements(e.payload->'postings') p
    WHERE p->>'account' LIKE 'users/%' GROUP BY 1, 2, 3
), running AS (
    SELECT account_id, currency, position, sum(a) OVER w AS a, sum(r) OVER w AS r, sum(p) OVER w AS p
    FROM changes WINDOW w AS (PARTITION BY account_id, currency ORDER BY position)
)
SELECT position FROM running FULL JOIN account_entries e USING (account_id, currency, position)
WHERE (a, r, p) IS DISTINCT FROM (e.available_after, e.reserved_after, e.pending_after)
  AND (a, r, p) IS DISTINCT FROM (NULL::numeric, NULL::numeric, NULL::numeric)

-- name: account_entries_do_not_add_up
SELECT account_id, currency, position FROM (
    SELECT account_id, currency, position,
           (available_after - available_change, reserved_after - reserved_change, pending_after - pending_change)
           IS DISTINCT FROM (lag(available_after, 1, 0::bigint) OVER w, lag(reserved_after, 1, 0::bigint) OVER w,
                             lag(pending_after, 1, 0::bigint) OVER w) AS wrong
    FROM account_entries WINDOW w AS (PARTITION BY account_id, currency ORDER BY position)
) s WHERE wrong

-- name: a_balance_is_not_the_sum_of_its_postings
WITH sums AS (
    SELECT p->>'account' AS account, p->>'currency' AS currency, sum((p->>'amount_minor')::bigint) AS total
    FROM event_store e, jsonb_array_elements(e.payload->'postings') p
    WHERE p->>'account' LIKE 'users/%' GROUP BY 1, 2
), buckets AS (
    SELECT 'users/' || a.id || '/' || replace(m.key, '_minor', '') AS account, b.key AS currency,
           (m.value #>> '{}')::bigint AS total
    FROM states a, jsonb_each(a.state->'balances') b, jsonb_each(b.value) m WHERE a.kind = 'account'
)
SELECT account, currency FROM sums FULL JOIN buckets USING (account, currency)
WHERE coalesce(sums.total, 0) <> coalesce(buckets.total, 0)

-- name: a_reserved_bucket_is_not_the_sum_of_its_holds
SELECT a.id, b.key FROM states a, jsonb_each(a.state->'balances') b
WHERE a.kind = 'account' AND (b.value->>'reserved_minor')::bigint <> (
    SELECT coalesce(sum((h.value->>'amount_minor')::bigint), 0) FROM jsonb_each(a.state->'holds') h
    WHERE h.value->>'currency' = b.key)

-- name: an_escrow_is_not_the_sum_of_its_postings
WITH sums AS (
    SELECT p->>'account' AS account, sum((p->>'amount_minor')::bigint) AS total
    FROM event_store e, jsonb_array_elements(e.payload->'postings') p
    WHERE p->>'account' LIKE 'escrow/%' GROUP BY 1
)
SELECT a.id FROM states a LEFT JOIN sums ON sums.account = 'escrow/' || a.id
WHERE a.kind = 'auction'
  AND (coalesce(sums.total, 0) <> (a.state->>'escrow_minor')::bigint OR coalesce(sums.total, 0) < 0)

-- name: a_house_balance_is_not_the_sum_of_its_postings
WITH sums AS (
    SELECT p->>'account' AS account, p->>'currency' AS currency, sum((p->>'amount_minor')::bigint) AS total
    FROM event_store e, jsonb_array_elements(e.payload->'postings') p
    WHERE p->>'account' NOT LIKE 'users/%' AND p->>'account' NOT LIKE 'escrow/%' GROUP BY 1, 2
)
SELECT account, currency FROM sums FULL JOIN house_balances h USING (account, currency)
WHERE coalesce(sums.total, 0) <> coalesce(h.balance_minor, 0)

-- name: money_stays_in_transit_between_two_users_of_a_cell
SELECT account FROM house_balances WHERE account = 'transit' AND balance_minor <> 0

-- name: a_clearing_entry_does_not_match_its_postings
WITH sums AS (
    SELECT e.position, p->>'currency' AS currency, (p->>'amount_minor')::bigint AS amount_minor,
           (e.payload->>'clearing_id')::uuid AS clearing_id, split_part(p->>'account', '/', 2) AS peer
    FROM event_store e, jsonb_array_elements(e.payload->'postings') p
    WHERE p->>'account' LIKE 'clearing/%'
)
SELECT position FROM sums FULL JOIN clearing_entries c USING (position, clearing_id, peer, currency)
WHERE sums.amount_minor IS DISTINCT FROM c.amount_minor

-- name: a_mark_of_a_leg_does_not_match_the_events
WITH marks AS (
    SELECT event_id, metadata->'leg'->>'direction' AS direction FROM event_store
    WHERE metadata->'leg' IS NOT NULL AND metadata->>'leg' IS NOT NULL
)
SELECT event_id FROM marks FULL JOIN saga_legs USING (event_id, direction)
WHERE marks.event_id IS NULL OR saga_legs.leg_id IS NULL

-- name: a_saga_has_more_than_one_end
SELECT aggregate_id FROM event_store WHERE event_type IN ('SAGA_COMPLETED', 'SAGA_COMPENSATED')
GROUP BY aggregate_id HAVING count(*) > 1

-- name: a_saga_went_on_after_its_end
SELECT e.aggregate_id FROM event_store e
JOIN event_store later ON later.aggregate_id = e.aggregate_id AND later.stream_version > e.stream_version
WHERE e.event_type IN ('SAGA_COMPLETED', 'SAGA_COMPENSATED')

-- name: an_effect_comes_before_its_cause
SELECT e.position FROM event_store e JOIN event_store c ON c.event_id = e.causation_id
WHERE c.position >= e.position

-- name: an_external_reference_was_used_twice
SELECT event_type, payload->>'external_reference' FROM event_store
WHERE event_type IN ('DEPOSITED', 'WITHDRAWN')
GROUP BY 1, 2 HAVING count(*) > 1

-- name: a_checkpoint_is_missing_by_its_number
-- Checkpoints of older programs have no number, and come first.
SELECT size, number FROM (
    SELECT size, number, lag(number, 1, 0::numeric) OVER (ORDER BY size) AS before FROM (
        SELECT size, coalesce(substring(note FROM E'\nsequence ([1-9][0-9]*)\n')::numeric, 0) AS number FROM checkpoints
    ) numbered
) s WHERE number <> before + 1 AND (number > 0 OR before > 0)
