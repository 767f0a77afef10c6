-- +goose Up

-- The trace of the purchase's call, as package telemetry writes it; NULL: nobody traced it.
ALTER TABLE inbox ADD COLUMN trace BLOB;

-- +goose Down
ALTER TABLE inbox DROP COLUMN trace;
