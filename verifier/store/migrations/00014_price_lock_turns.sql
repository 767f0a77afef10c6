-- +goose Up
-- A row is held by the transaction that counts the price locks of a viewer session and issues one: of two purchases that
-- fail at the same time, the second counts the first's. Only where replicas share the store.
CREATE TABLE price_lock_turns (
    viewer_session_id BLOB NOT NULL PRIMARY KEY
);

-- +goose Down
DROP TABLE price_lock_turns;
