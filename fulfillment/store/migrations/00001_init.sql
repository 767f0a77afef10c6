-- Types are SQLite's spelling (BLOB is BYTEA elsewhere); every other statement of this package is portable.
-- Ids are 16-byte blobs, times are microseconds since 1970 UTC, states are the numbers of the protos and of package store.

-- +goose Up

-- One row per sequence. A row is bumped inside the transaction that uses the number, so numbers become visible in the
-- order in which they were drawn: SQLite has one writer, and PostgreSQL holds the row's lock until the commit.
CREATE TABLE counters (
    name  TEXT   PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('catalog_revision', 0), ('order_cursor', 0), ('node_key', 0);

CREATE TABLE drops (
    drop_id         BLOB    PRIMARY KEY,
    channel_id      TEXT    NOT NULL,
    open_time_us    BIGINT  NOT NULL,
    close_time_us   BIGINT  NOT NULL,
    over_time_us    BIGINT  NOT NULL,        -- the clock says CLOSED from here on
    units           INTEGER NOT NULL,
    revision        BIGINT  NOT NULL UNIQUE, -- of the last change
    settled_time_us BIGINT,                  -- NULL until SETTLED
    terms           BLOB    NOT NULL         -- rimlight.fulfillment.v1.CatalogDrop
);
CREATE INDEX drops_by_opening ON drops (open_time_us, drop_id);
CREATE INDEX drops_unsettled ON drops (over_time_us) WHERE settled_time_us IS NULL;

CREATE TABLE create_requests (
    request_id TEXT PRIMARY KEY,
    request    BLOB NOT NULL, -- rimlight.fulfillment.v1.CreateDropRequest
    drop_id    BLOB NOT NULL REFERENCES drops (drop_id)
);

CREATE TABLE nodes (
    node_id      BLOB   PRIMARY KEY,
    disk_id      TEXT   NOT NULL,
    epoch        BIGINT NOT NULL,
    region       TEXT   NOT NULL,
    seen_time_us BIGINT NOT NULL -- coarse: see liveRefresh
);

-- Keys are never deleted: a receipt must be verifiable for ever.
CREATE TABLE node_keys (
    position   BIGINT PRIMARY KEY, -- in the order of joining
    key_id     BLOB   NOT NULL UNIQUE,
    node_id    BLOB   NOT NULL REFERENCES nodes (node_id),
    key        BLOB   NOT NULL -- rimlight.offer.v1.SigningKey
);

CREATE TABLE leases (
    lease_id      BLOB   PRIMARY KEY, -- never reused
    drop_id       BLOB   NOT NULL REFERENCES drops (drop_id),
    node_id       BLOB   NOT NULL REFERENCES nodes (node_id),
    epoch         BIGINT NOT NULL,
    grant_time_us BIGINT NOT NULL,
    lease         BLOB   NOT NULL -- rimlight.fulfillment.v1.Lease with all serials it was granted with
);
CREATE INDEX leases_by_node ON leases (node_id, drop_id);

CREATE TABLE grant_requests (
    request_id   BLOB    PRIMARY KEY,
    node_id      BLOB    NOT NULL,
    epoch        BIGINT  NOT NULL,
    drop_id      BLOB    NOT NULL,
    wanted_units INTEGER NOT NULL,
    lease_id     BLOB,            -- NULL: nothing was free
    sold_out     INTEGER NOT NULL -- 0 or 1
);

CREATE TABLE units (
    drop_id  BLOB    NOT NULL REFERENCES drops (drop_id),
    serial   INTEGER NOT NULL,
    state    INTEGER NOT NULL, -- 1 FREE, 2 LEASED, 3 SOLD
    lease_id BLOB,             -- LEASED: to it; SOLD: from it
    token_id BLOB,             -- SOLD: K
    PRIMARY KEY (drop_id, serial)
);
CREATE INDEX units_by_state ON units (drop_id, state, serial);
CREATE INDEX units_by_lease ON units (lease_id, state) WHERE lease_id IS NOT NULL;
CREATE UNIQUE INDEX units_by_token ON units (token_id) WHERE token_id IS NOT NULL; -- one K, one unit

-- What the verifier released: a Settle that comes after it gets a no.
CREATE TABLE releases (
    token_id        BLOB    NOT NULL,
    drop_id         BLOB    NOT NULL,
    serial          INTEGER NOT NULL,
    lease_id        BLOB    NOT NULL,
    was_sold        INTEGER NOT NULL, -- 0 or 1: the unit was settled to K before
    release_time_us BIGINT  NOT NULL,
    PRIMARY KEY (token_id, drop_id, serial, lease_id)
);

CREATE TABLE orders (
    order_id      BLOB    PRIMARY KEY,
    purchase_id   TEXT    NOT NULL,
    drop_id       BLOB    NOT NULL,
    serial        INTEGER NOT NULL,
    state         INTEGER NOT NULL, -- rimlight.fulfillment.v1.OrderState
    worker        TEXT    NOT NULL,
    attempt       INTEGER NOT NULL,
    until_us      BIGINT  NOT NULL, -- READY: not before; LEASED, ACKED: the claim's end
    state_time_us BIGINT  NOT NULL,
    place_time_us BIGINT  NOT NULL,
    position      BIGINT  NOT NULL UNIQUE, -- in the order of placing: the cursor of its first event
    licence_key   TEXT    NOT NULL
);
-- A unit is shipped once. A dead order gave its unit back.
CREATE UNIQUE INDEX orders_by_unit ON orders (drop_id, serial) WHERE state <> 5;
CREATE INDEX orders_claimable ON orders (until_us) WHERE state < 4;
CREATE INDEX orders_by_drop ON orders (drop_id, position);

CREATE TABLE order_events (
    cursor        BIGINT  PRIMARY KEY,
    order_id      BLOB    NOT NULL REFERENCES orders (order_id),
    state         INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    state_time_us BIGINT  NOT NULL
);

-- +goose Down
DROP TABLE order_events;
DROP TABLE orders;
DROP TABLE releases;
DROP TABLE units;
DROP TABLE grant_requests;
DROP TABLE leases;
DROP TABLE node_keys;
DROP TABLE nodes;
DROP TABLE create_requests;
DROP TABLE drops;
DROP TABLE counters;
