-- +goose Up

-- NULL: not sealed. Else the node retired from this epoch, sold nothing after the journal's last entry, and all of it is here.
ALTER TABLE journals ADD COLUMN sealed_epoch BIGINT;

-- +goose Down
ALTER TABLE journals DROP COLUMN sealed_epoch;
