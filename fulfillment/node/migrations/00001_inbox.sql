-- +goose Up

-- One row: who the node is, over restarts.
CREATE TABLE identity (
    one     INTEGER PRIMARY KEY,
    node_id TEXT    NOT NULL
);

CREATE TABLE inbox (
    order_id     TEXT    PRIMARY KEY,
    attempt      INTEGER NOT NULL,
    state        INTEGER NOT NULL, -- see package node
    serial       INTEGER NOT NULL,
    sku          TEXT    NOT NULL,
    details      BLOB    NOT NULL, -- emptied when the parcel left, or the order is another's
    reason       INTEGER NOT NULL, -- REFUSED: rimlight.fulfillment.v1.RejectReason
    tracking     TEXT    NOT NULL, -- of the one label that was ever made
    gone         INTEGER NOT NULL, -- 1: the parcel left
    take_time_us BIGINT  NOT NULL
);
CREATE INDEX inbox_by_state ON inbox (state);

-- +goose Down
DROP TABLE inbox;
DROP TABLE identity;
