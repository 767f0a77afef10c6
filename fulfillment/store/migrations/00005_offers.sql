-- +goose Up

-- Offers that nodes made, as each process life of a node counts them.
CREATE TABLE offers_made (
    drop_id BLOB   NOT NULL REFERENCES drops (drop_id),
    node_id BLOB   NOT NULL,
    boot_id TEXT   NOT NULL,
    offers  BIGINT NOT NULL,
    PRIMARY KEY (drop_id, node_id, boot_id)
);

-- +goose Down
DROP TABLE offers_made;
