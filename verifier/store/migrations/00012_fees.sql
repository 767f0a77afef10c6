-- +goose Up

-- What the payment provider keeps of what it took.
ALTER TABLE purchases ADD COLUMN fee_minor_units BIGINT NOT NULL DEFAULT 0;
DROP INDEX purchases_by_state;
CREATE INDEX purchases_by_state ON purchases (drop_id, state, arrival, reason, currency_code, charged_minor_units, fee_minor_units);

-- +goose Down
DROP INDEX purchases_by_state;
CREATE INDEX purchases_by_state ON purchases (drop_id, state, arrival, reason, currency_code, charged_minor_units);
ALTER TABLE purchases DROP COLUMN fee_minor_units;
