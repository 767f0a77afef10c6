-- +goose Up

-- Leases that are being closed, or are: no redemption that arrives later makes a candidate for their units.
CREATE TABLE tombstones (
    lease_id       BLOB   NOT NULL PRIMARY KEY,
    tombstone_time BIGINT NOT NULL
);

-- +goose Down
DROP TABLE tombstones;
