-- +goose Up

-- What a drop's report sums carries its drop, and each of its sums is read from one index: a report of a million
-- purchases joins nothing.
ALTER TABLE ledger_postings ADD COLUMN drop_id BLOB;
UPDATE ledger_postings SET drop_id = (SELECT p.drop_id FROM purchases p WHERE p.purchase_id = ledger_postings.purchase_id);
CREATE INDEX ledger_postings_by_drop ON ledger_postings (drop_id, account, currency_code, kind, minor_units);
ALTER TABLE refunds ADD COLUMN drop_id BLOB;
UPDATE refunds SET drop_id = (SELECT p.drop_id FROM purchases p WHERE p.token_id = refunds.token_id);
CREATE INDEX refunds_by_drop ON refunds (drop_id, state, minor_units);
ALTER TABLE vouchers ADD COLUMN drop_id BLOB;
UPDATE vouchers SET drop_id = (SELECT p.drop_id FROM purchases p WHERE p.token_id = vouchers.token_id);
CREATE INDEX vouchers_by_drop ON vouchers (drop_id, kind, minor_units);
ALTER TABLE voucher_uses ADD COLUMN drop_id BLOB;
UPDATE voucher_uses SET drop_id = (SELECT p.drop_id FROM purchases p WHERE p.token_id = voucher_uses.token_id);
CREATE INDEX voucher_uses_by_drop ON voucher_uses (drop_id, state);

DROP INDEX purchases_by_state;
CREATE INDEX purchases_by_state ON purchases (drop_id, state, arrival, reason, currency_code, charged_minor_units);
-- Support lists a drop's purchases, latest first.
CREATE INDEX purchases_by_drop ON purchases (drop_id, arrival);

-- +goose Down
DROP INDEX purchases_by_drop;
DROP INDEX purchases_by_state;
CREATE INDEX purchases_by_state ON purchases (drop_id, state, arrival);
DROP INDEX voucher_uses_by_drop;
ALTER TABLE voucher_uses DROP COLUMN drop_id;
DROP INDEX vouchers_by_drop;
ALTER TABLE vouchers DROP COLUMN drop_id;
DROP INDEX refunds_by_drop;
ALTER TABLE refunds DROP COLUMN drop_id;
DROP INDEX ledger_postings_by_drop;
ALTER TABLE ledger_postings DROP COLUMN drop_id;
