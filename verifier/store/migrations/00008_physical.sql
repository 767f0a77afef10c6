-- +goose Up

ALTER TABLE drop_terms ADD COLUMN physical INTEGER NOT NULL DEFAULT 0; -- 1: its orders are parcels

-- +goose Down
ALTER TABLE drop_terms DROP COLUMN physical;
