-- +goose Up

-- The microfulfillment nodes that greeted lately: what drops tell clients and regions of them.
CREATE TABLE depots (
    node_id       TEXT   PRIMARY KEY,
    hello         BLOB   NOT NULL, -- rimlight.fulfillment.v1.NodeHello: zones, skus and delivery_keys of the last one
    first_time_us BIGINT NOT NULL,
    seen_time_us  BIGINT NOT NULL  -- coarse: see depotRefresh
);

-- +goose Down
DROP TABLE depots;
