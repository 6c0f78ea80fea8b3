-- A ledger of holds in auctions, as it is written without events: one function call is one command.
-- Every change is made under row locks that are taken in one order: auctions by id, then accounts by id.

CREATE TABLE accounts (
    user_id uuid PRIMARY KEY,
    available_minor bigint NOT NULL CHECK (available_minor >= 0),
    reserved_minor bigint NOT NULL CHECK (reserved_minor >= 0)
) WITH (fillfactor = 70); -- room for updates that touch no index

CREATE TABLE auctions (
    auction_id uuid PRIMARY KEY,
    end_time timestamptz NOT NULL,
    increment_minor bigint NOT NULL CHECK (increment_minor > 0),
    -- The hold: the leader has reserved so much.
    leader_id uuid REFERENCES accounts,
    highest_minor bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);

-- Every command with its outcome: what makes a repeated one harmless.
CREATE TABLE bids (
    command_id uuid PRIMARY KEY,
    auction_id uuid NOT NULL,
    bidder_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    outcome text NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Every change of an account, with the balance after it: balances of any past moment are one look into the index.
CREATE TABLE entries (
    user_id uuid NOT NULL,
    entry_id bigint GENERATED ALWAYS AS IDENTITY,
    command_id uuid NOT NULL,
    reserved_change_minor bigint NOT NULL,
    available_after_minor bigint NOT NULL,
    reserved_after_minor bigint NOT NULL,
    PRIMARY KEY (user_id, entry_id)
);

-- The refusal of a bid, or ACCEPTED with all its effects.
CREATE FUNCTION decided_bid(command uuid, auction uuid, bidder uuid, amount bigint) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    found_auction auctions;
    raised bigint;
    funds bigint;
BEGIN
    SELECT * INTO found_auction FROM auctions WHERE auction_id = auction FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'AUCTION_NOT_FOUND';
    ELSIF found_auction.end_time <= clock_timestamp() THEN
        RETURN 'AUCTION_NOT_ACTIVE';
    ELSIF amount < found_auction.highest_minor + found_auction.increment_minor THEN
        RETURN 'BID_TOO_LOW';
    END IF;
    -- Sorted, so that two bids never wait for each other.
    PERFORM FROM accounts WHERE user_id IN (bidder, found_auction.leader_id) ORDER BY user_id FOR UPDATE;
    SELECT available_minor INTO funds FROM accounts WHERE user_id = bidder;
    -- A leader who raises needs only the difference.
    raised := amount - CASE WHEN bidder = found_auction.leader_id THEN found_auction.highest_minor ELSE 0 END;
    IF funds IS NULL THEN
        RETURN 'USER_NOT_FOUND';
    ELSIF funds < raised THEN
        RETURN 'INSUFFICIENT_FUNDS';
    END IF;
    WITH changes (user_id, change) AS (
        SELECT bidder, raised
        UNION ALL
        SELECT found_auction.leader_id, -found_auction.highest_minor WHERE found_auction.leader_id <> bidder
    ), changed AS (
        UPDATE accounts
        SET available_minor = available_minor - change, reserved_minor = reserved_minor + change
        FROM changes WHERE accounts.user_id = changes.user_id
        RETURNING accounts.user_id, change, available_minor, reserved_minor
    )
    INSERT INTO entries (user_id, command_id, reserved_change_minor, available_after_minor, reserved_after_minor)
    SELECT user_id, command, change, available_minor, reserved_minor FROM changed;
    UPDATE auctions SET leader_id = bidder, highest_minor = amount WHERE auction_id = auction;
    RETURN 'ACCEPTED';
END $$;

CREATE FUNCTION place_bid(command uuid, auction uuid, bidder uuid, amount bigint) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    stored bids;
    decided text;
BEGIN
    -- The id is taken first: a second call with it, even at the same moment, waits here and finds what the first did.
    INSERT INTO bids VALUES (command, auction, bidder, amount, 'ACCEPTED') ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        SELECT * INTO stored FROM bids WHERE command_id = command;
        RETURN CASE
            WHEN (stored.auction_id, stored.bidder_id, stored.amount_minor) = (auction, bidder, amount)
            THEN stored.outcome
            ELSE 'COMMAND_ID_REUSED'
        END;
    END IF;
    decided := decided_bid(command, auction, bidder, amount);
    IF decided <> 'ACCEPTED' THEN
        UPDATE bids SET outcome = decided WHERE command_id = command;
    END IF;
    RETURN decided;
END $$;

-- All in one transaction, in the order given; each has an outcome of its own.
CREATE FUNCTION place_bids(commands uuid[], wanted uuid[], bidders uuid[], amounts bigint[]) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    outcomes text[] := '{}';
BEGIN
    PERFORM FROM auctions WHERE auction_id = ANY (wanted) ORDER BY auction_id FOR UPDATE;
    -- Under these locks nobody else changes who leads.
    PERFORM FROM accounts WHERE user_id = ANY (bidders)
        OR user_id IN (SELECT leader_id FROM auctions WHERE auction_id = ANY (wanted))
        ORDER BY user_id FOR UPDATE;
    FOR item IN 1 .. cardinality(commands) LOOP
        outcomes := outcomes || place_bid(commands[item], wanted[item], bidders[item], amounts[item]);
    END LOOP;
    RETURN outcomes;
END $$;
