-- +goose Up

ALTER TABLE orders ADD COLUMN sku TEXT NOT NULL DEFAULT '';      -- empty: a digital order
ALTER TABLE orders ADD COLUMN region TEXT NOT NULL DEFAULT '';   -- that accepted the purchase; physical orders
ALTER TABLE orders ADD COLUMN reason INTEGER NOT NULL DEFAULT 0; -- rimlight.fulfillment.v1.RejectReason, the last one
ALTER TABLE orders ADD COLUMN tracking TEXT NOT NULL DEFAULT '';
ALTER TABLE orders ADD COLUMN assign_time_us BIGINT NOT NULL DEFAULT 0;

-- Digital and physical orders have workers of their own.
DROP INDEX orders_claimable;
CREATE INDEX orders_claimable ON orders (until_us) WHERE state < 4 AND sku = '';
CREATE INDEX orders_routable ON orders (until_us) WHERE state < 4 AND sku <> '';
CREATE INDEX orders_by_worker ON orders (worker, state) WHERE sku <> '';

-- Where a physical order goes: opaque, and personal data. A row is deleted when a node accepted the order, or it is dead.
CREATE TABLE order_details (
    order_id BLOB PRIMARY KEY REFERENCES orders (order_id),
    details  BLOB NOT NULL
);

-- The nodes that did not take an order.
CREATE TABLE order_refusals (
    order_id BLOB NOT NULL REFERENCES orders (order_id),
    worker   TEXT NOT NULL,
    PRIMARY KEY (order_id, worker)
);

-- +goose Down
DROP TABLE order_refusals;
DROP TABLE order_details;
DROP INDEX orders_by_worker;
DROP INDEX orders_routable;
DROP INDEX orders_claimable;
CREATE INDEX orders_claimable ON orders (until_us) WHERE state < 4;
ALTER TABLE orders DROP COLUMN assign_time_us;
ALTER TABLE orders DROP COLUMN tracking;
ALTER TABLE orders DROP COLUMN reason;
ALTER TABLE orders DROP COLUMN region;
ALTER TABLE orders DROP COLUMN sku;
