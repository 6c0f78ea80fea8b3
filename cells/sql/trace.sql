-- name: trace_subjects
-- The possible meanings of an id: an event, a flow, a stream, the external reference of a deposit or withdrawal, or a
-- command (whose outcome says where it ended).
SELECT event_id FROM (
    SELECT event_id, position FROM event_store WHERE event_id = $1
    UNION
    (SELECT event_id, position FROM event_store WHERE correlation_id = $1 ORDER BY position LIMIT $2)
    UNION
    (SELECT event_id, position FROM event_store WHERE aggregate_id = $1 ORDER BY stream_version LIMIT $2)
    UNION
    (SELECT e.event_id, e.position FROM external_references r JOIN event_store e ON e.position = r.position
     WHERE r.reference_id = $1)
    UNION
    (SELECT e.event_id, e.position FROM command_outcomes o JOIN event_store e ON e.position = o.position
     WHERE o.command_id = $1 AND o.cell IS NULL AND e.metadata->>'command_id' = $1::text)
    UNION
    -- A bid or a transfer into another cell: its flow is the saga's, which knows the command that began it.
    (SELECT flow.event_id, flow.position
     FROM command_outcomes o
     JOIN event_store e ON e.position = o.position
     JOIN event_store began ON began.aggregate_id = e.correlation_id AND began.stream_version = 1
     JOIN event_store flow ON flow.correlation_id = began.aggregate_id
     WHERE o.command_id = $1 AND o.cell IS NULL AND began.payload->'facts'->>'command_id' = $1::text
     ORDER BY flow.position LIMIT $2)
) found
ORDER BY position LIMIT $2

-- name: trace_causes
-- OFFSET 0 keeps each step an index lookup, whatever the planner assumes about the recursion's size. UNION, not UNION
-- ALL: in a log that somebody has changed, causes may form a cycle.
WITH RECURSIVE up (event_id, causation_id) AS (
    SELECT event_id, causation_id FROM event_store WHERE event_id = ANY($1)
    UNION
    SELECT e.event_id, e.causation_id FROM up CROSS JOIN LATERAL (
        SELECT event_id, causation_id FROM event_store WHERE event_id = up.causation_id OFFSET 0
    ) e
)
SELECT event_id FROM up LIMIT $2

-- name: trace_effects
WITH RECURSIVE down (event_id) AS (
    SELECT e.event_id FROM unnest($1::uuid[]) AS wanted (id) CROSS JOIN LATERAL (
        SELECT event_id FROM event_store WHERE causation_id = wanted.id OFFSET 0
    ) e
    UNION
    SELECT e.event_id FROM down CROSS JOIN LATERAL (
        SELECT event_id FROM event_store WHERE causation_id = down.event_id OFFSET 0
    ) e
)
SELECT event_id FROM down LIMIT $2

-- name: trace_events
SELECT position, event_id, event_type, aggregate_id, stream_version, causation_id, correlation_id, hlc_physical,
       hlc_logical, vector_clock, payload, metadata, user_id, recorded_at, leaf_hash
FROM event_store WHERE event_id = ANY($1)
ORDER BY position
