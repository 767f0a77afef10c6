-- +goose Up
ALTER TABLE psp_intents ADD COLUMN fee_minor_units BIGINT NOT NULL DEFAULT 0;
ALTER TABLE psp_charges ADD COLUMN fee_minor_units BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE psp_charges DROP COLUMN fee_minor_units;
ALTER TABLE psp_intents DROP COLUMN fee_minor_units;
