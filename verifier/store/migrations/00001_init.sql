-- +goose Up
-- Ids are 16 raw bytes, times microseconds UTC, money minor units.

-- Ascending numbers that are given out and committed together with what they number. Taking one locks the row until the
-- commit, so numbers become visible in their order, whichever engine: a reader that has seen n will never find a smaller
-- one later. (A sequence or rowid polled with "id > last" loses rows of transactions that commit late.)
CREATE TABLE counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('arrival', 0), ('event', 0), ('order_cursor', 0);

CREATE TABLE purchases (
    token_id          BLOB    NOT NULL PRIMARY KEY,
    purchase_id       BLOB    NOT NULL UNIQUE,
    arrival           BIGINT  NOT NULL,
    drop_id           BLOB    NOT NULL,
    viewer_session_id BLOB    NOT NULL,
    state             INTEGER NOT NULL,
    reason            INTEGER NOT NULL,
    state_time        BIGINT  NOT NULL,
    node_id           BLOB    NOT NULL,
    serial            BIGINT  NOT NULL,
    lease_id          BLOB    NOT NULL,
    accept_time       BIGINT  NOT NULL,
    currency_code     TEXT    NOT NULL,
    minor_units       BIGINT  NOT NULL,
    payment_reference TEXT    NOT NULL,
    attempt           INTEGER NOT NULL,
    intent_id         TEXT    NOT NULL,
    licence_key       TEXT    NOT NULL,
    outcome           TEXT    NOT NULL
);
CREATE INDEX purchases_by_viewer ON purchases (drop_id, viewer_session_id, arrival);
CREATE INDEX purchases_by_state ON purchases (drop_id, state);

-- Every distinct redemption of a token; state: 1 winner, 2 spare, 3 denied by fulfillment, 4 to release, 5 released,
-- 6 redundant (the same unit of the same lease as another one).
CREATE TABLE candidates (
    token_id BLOB    NOT NULL REFERENCES purchases (token_id),
    node_id  BLOB    NOT NULL,
    serial   BIGINT  NOT NULL,
    lease_id BLOB    NOT NULL,
    arrival  BIGINT  NOT NULL,
    state    INTEGER NOT NULL,
    settled  INTEGER NOT NULL,
    receipt  TEXT    NOT NULL,
    PRIMARY KEY (token_id, node_id, serial, lease_id)
);

-- Entries that are no genuine receipt, kept for whoever asks why.
CREATE TABLE rejected (
    node_id     BLOB   NOT NULL,
    sequence    BIGINT NOT NULL,
    cause       TEXT   NOT NULL,
    entry       TEXT   NOT NULL,
    reject_time BIGINT NOT NULL,
    PRIMARY KEY (node_id, sequence)
);

CREATE TABLE forwarders (
    node_id  BLOB   NOT NULL PRIMARY KEY,
    sequence BIGINT NOT NULL
);

CREATE TABLE events (
    cursor     BIGINT  NOT NULL PRIMARY KEY,
    token_id   BLOB    NOT NULL REFERENCES purchases (token_id),
    state      INTEGER NOT NULL,
    reason     INTEGER NOT NULL,
    event_time BIGINT  NOT NULL
);

-- Work to do; done is deleted, in the transaction that holds the effect. state: 0 ready, 1 claimed until run_at.
-- serial and lease_id say which unit a release is about; zeros elsewhere.
CREATE TABLE jobs (
    kind     TEXT    NOT NULL,
    token_id BLOB    NOT NULL REFERENCES purchases (token_id),
    serial   BIGINT  NOT NULL,
    lease_id BLOB    NOT NULL,
    state    INTEGER NOT NULL,
    run_at   BIGINT  NOT NULL,
    attempts INTEGER NOT NULL,
    PRIMARY KEY (kind, token_id, serial, lease_id)
);
CREATE INDEX jobs_due ON jobs (kind, run_at);
CREATE INDEX jobs_of ON jobs (token_id);

CREATE TABLE vouchers (
    token_id      BLOB    NOT NULL PRIMARY KEY REFERENCES purchases (token_id),
    voucher_id    BLOB    NOT NULL UNIQUE,
    kind          INTEGER NOT NULL,
    currency_code TEXT    NOT NULL,
    minor_units   BIGINT  NOT NULL,
    expire_time   BIGINT  NOT NULL
);

CREATE TABLE ledger_transactions (
    purchase_id BLOB   NOT NULL,
    kind        TEXT   NOT NULL,
    post_time   BIGINT NOT NULL,
    PRIMARY KEY (purchase_id, kind)
);
CREATE TABLE ledger_postings (
    purchase_id   BLOB    NOT NULL,
    kind          TEXT    NOT NULL,
    line          INTEGER NOT NULL,
    account       TEXT    NOT NULL,
    currency_code TEXT    NOT NULL,
    minor_units   BIGINT  NOT NULL,
    PRIMARY KEY (purchase_id, kind, line),
    FOREIGN KEY (purchase_id, kind) REFERENCES ledger_transactions (purchase_id, kind)
);

-- Public keys, for ever; body is a rimlight.offer.v1.SigningKey.
CREATE TABLE signing_keys (
    key_id BLOB NOT NULL PRIMARY KEY,
    body   BLOB NOT NULL
);
-- The verifier's own seed, made at the first start: one row.
CREATE TABLE own_seed (
    singleton INTEGER NOT NULL PRIMARY KEY CHECK (singleton = 1),
    seed      BLOB    NOT NULL
);

-- +goose Down
DROP TABLE own_seed;
DROP TABLE signing_keys;
DROP TABLE ledger_postings;
DROP TABLE ledger_transactions;
DROP TABLE vouchers;
DROP TABLE jobs;
DROP TABLE events;
DROP TABLE forwarders;
DROP TABLE rejected;
DROP TABLE candidates;
DROP TABLE purchases;
DROP TABLE counters;
