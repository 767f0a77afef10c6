-- +goose Up

-- Where changes of purchases are posted to. states has bit 1<<s for each state that is told of; state is 1 active or
-- 2 disabled. Everything up to cursor was told. Whoever holds lease, until lease_until, tells; each claim, replay and
-- rotation makes a new lease, so that a holder of an older one changes nothing any more. Zero times: none.
CREATE TABLE webhooks (
    webhook_id     BLOB    NOT NULL PRIMARY KEY,
    request_id     TEXT    NOT NULL UNIQUE,
    url            TEXT    NOT NULL,
    states         BIGINT  NOT NULL,
    secret         BLOB    NOT NULL,
    old_secret     BLOB    NOT NULL,
    old_until      BIGINT  NOT NULL,
    rotate_request TEXT    NOT NULL,
    state          INTEGER NOT NULL,
    cursor         BIGINT  NOT NULL,
    lease          BIGINT  NOT NULL,
    lease_until    BIGINT  NOT NULL,
    attempts       INTEGER NOT NULL,
    failing_since  BIGINT  NOT NULL,
    retry_at       BIGINT  NOT NULL,
    problem        TEXT    NOT NULL,
    create_time    BIGINT  NOT NULL
);

-- Support looks purchases up by when they arrived, and by their order. Purchases from before have no order id here.
ALTER TABLE purchases ADD COLUMN order_id BLOB;
CREATE INDEX purchases_by_order ON purchases (order_id);
CREATE INDEX purchases_by_arrival ON purchases (arrival);
DROP INDEX purchases_by_state;
CREATE INDEX purchases_by_state ON purchases (drop_id, state, arrival);

-- +goose Down
DROP INDEX purchases_by_state;
CREATE INDEX purchases_by_state ON purchases (drop_id, state);
DROP INDEX purchases_by_arrival;
DROP INDEX purchases_by_order;
ALTER TABLE purchases DROP COLUMN order_id;
DROP TABLE webhooks;
