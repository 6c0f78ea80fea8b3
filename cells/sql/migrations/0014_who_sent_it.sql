-- A command is named by its sender and its id together: two principals may use one id, and neither is in the other's way.

-- principal: the sender. Rows of before have '': they answer whoever sends the same request again, by its fingerprint,
--   until they are too old to be kept.
-- user_id: whose command it was, from now on in every row. in_stream: an event in the stream of that user's account
--   names the command, and so it is found without an index of its own when the user moves.
-- cell: in whose log `position` and the stamp are; NULL: in this one's. What a user brings along was reached elsewhere.
-- saga_id: the saga that answers the command, where one does.
ALTER TABLE command_outcomes
    ADD COLUMN principal TEXT COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN in_stream BOOLEAN NOT NULL DEFAULT false,
    ADD COLUMN cell      TEXT,
    ADD COLUMN saga_id   UUID;

ALTER TABLE command_outcomes
    DROP CONSTRAINT command_outcomes_pkey,
    ADD PRIMARY KEY (command_id, principal, recorded_at);

DROP INDEX command_outcomes_user;
CREATE INDEX command_outcomes_user ON command_outcomes (user_id, command_id, principal)
    WHERE user_id IS NOT NULL AND NOT in_stream;
