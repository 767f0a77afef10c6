-- +goose Up

-- Nodes that get no more stock, and who said so. A node that comes back from another disk has another epoch, and is free.
CREATE TABLE fences (
    request_id    TEXT   PRIMARY KEY,
    node_id       BLOB   NOT NULL REFERENCES nodes (node_id),
    epoch         BIGINT NOT NULL,
    drop_id       BLOB,           -- NULL: every drop
    role          TEXT   NOT NULL,
    fence_time_us BIGINT NOT NULL,
    request       BLOB   NOT NULL -- rimlight.fulfillment.v1.FenceNodeRequest
);
CREATE INDEX fences_by_node ON fences (node_id, epoch);

-- +goose Down
DROP TABLE fences;
