-- +goose Up

-- The last part of the window, which was given back to viewers whose answers were late.
ALTER TABLE drops ADD COLUMN time_back_us BIGINT NOT NULL DEFAULT 0;

-- What was given back, each time that it was more.
CREATE TABLE time_backs (
    drop_id      BLOB   NOT NULL REFERENCES drops (drop_id),
    time_back_us BIGINT NOT NULL, -- all in all
    delay_us     BIGINT NOT NULL, -- that was measured
    cause        TEXT   NOT NULL,
    slip_id      TEXT   NOT NULL, -- names the router
    grant_time_us BIGINT NOT NULL,
    PRIMARY KEY (drop_id, time_back_us)
);

-- Fulfillment's own seed, made when it is first needed: one row.
CREATE TABLE own_seed (
    singleton INTEGER NOT NULL PRIMARY KEY CHECK (singleton = 1),
    seed      BLOB    NOT NULL
);

-- Fulfillment's own key is among the nodes', without a node.
CREATE TABLE signing_keys (
    position BIGINT PRIMARY KEY, -- in the order of coming
    key_id   BLOB   NOT NULL UNIQUE,
    node_id  BLOB   REFERENCES nodes (node_id), -- NULL: fulfillment's
    key      BLOB   NOT NULL -- rimlight.offer.v1.SigningKey
);
INSERT INTO signing_keys (position, key_id, node_id, key) SELECT position, key_id, node_id, key FROM node_keys;
DROP TABLE node_keys;

-- +goose Down
CREATE TABLE node_keys (
    position   BIGINT PRIMARY KEY,
    key_id     BLOB   NOT NULL UNIQUE,
    node_id    BLOB   NOT NULL REFERENCES nodes (node_id),
    key        BLOB   NOT NULL
);
INSERT INTO node_keys (position, key_id, node_id, key) SELECT position, key_id, node_id, key FROM signing_keys WHERE node_id IS NOT NULL;
DROP TABLE signing_keys;
DROP TABLE own_seed;
DROP TABLE time_backs;
ALTER TABLE drops DROP COLUMN time_back_us;
