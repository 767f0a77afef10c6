-- +goose Up
-- What the provider takes of the price (the rest a voucher covers), and what of that rest is stored value: a price lock
-- makes the price lower and is worth nothing by itself.
ALTER TABLE purchases ADD COLUMN charged_minor_units BIGINT NOT NULL DEFAULT 0;
ALTER TABLE purchases ADD COLUMN stored_value_minor_units BIGINT NOT NULL DEFAULT 0;
-- The voucher that came with the redemption, and whether it is held for it. All ones: what came is no voucher of ours.
ALTER TABLE purchases ADD COLUMN presented_voucher BLOB;
ALTER TABLE purchases ADD COLUMN voucher_held INTEGER NOT NULL DEFAULT 0;
UPDATE purchases SET charged_minor_units = minor_units;
CREATE INDEX purchases_by_intent ON purchases (intent_id);

-- What is left: of stored value the money, of a price lock its price or, once used, nothing. expire_time 0: never.
ALTER TABLE vouchers ADD COLUMN remaining_minor_units BIGINT NOT NULL DEFAULT 0;
ALTER TABLE vouchers ADD COLUMN channel_id TEXT NOT NULL DEFAULT '';
ALTER TABLE vouchers ADD COLUMN viewer_session_id BLOB;
ALTER TABLE vouchers ADD COLUMN issue_time BIGINT NOT NULL DEFAULT 0;
UPDATE vouchers SET remaining_minor_units = minor_units;
CREATE INDEX vouchers_by_viewer ON vouchers (viewer_session_id, channel_id, issue_time);

-- Where vouchers went. state: 1 held by a payment in progress, 2 spent; a use that is given back is deleted, with what it
-- took put back on the voucher in the same transaction.
CREATE TABLE voucher_uses (
    token_id    BLOB    NOT NULL PRIMARY KEY REFERENCES purchases (token_id),
    voucher_id  BLOB    NOT NULL,
    minor_units BIGINT  NOT NULL,
    state       INTEGER NOT NULL
);
CREATE INDEX voucher_uses_of ON voucher_uses (voucher_id);

-- What the catalogue says of drops with purchases; terms are frozen before the first sale.
CREATE TABLE drop_terms (
    drop_id        BLOB    NOT NULL PRIMARY KEY,
    channel_id     TEXT    NOT NULL,
    title          TEXT    NOT NULL,
    max_per_viewer INTEGER NOT NULL
);

-- Money on its way back. state: 1 pending, 2 done, 3 failed. make_good: the end of a purchase in REFUNDING.
CREATE TABLE refunds (
    refund_id   BLOB    NOT NULL PRIMARY KEY,
    request_id  TEXT    NOT NULL UNIQUE,
    token_id    BLOB    NOT NULL REFERENCES purchases (token_id),
    minor_units BIGINT  NOT NULL,
    reason      TEXT    NOT NULL,
    make_good   INTEGER NOT NULL,
    state       INTEGER NOT NULL,
    create_time BIGINT  NOT NULL,
    state_time  BIGINT  NOT NULL
);
CREATE INDEX refunds_of ON refunds (token_id);

-- Hints of the payment provider that were used: each acts once, however often it comes.
CREATE TABLE payment_hints (
    hint_id      TEXT   NOT NULL PRIMARY KEY,
    receive_time BIGINT NOT NULL
);
CREATE INDEX payment_hints_age ON payment_hints (receive_time);

-- +goose Down
DROP TABLE payment_hints;
DROP TABLE refunds;
DROP TABLE drop_terms;
DROP TABLE voucher_uses;
DROP INDEX vouchers_by_viewer;
ALTER TABLE vouchers DROP COLUMN issue_time;
ALTER TABLE vouchers DROP COLUMN viewer_session_id;
ALTER TABLE vouchers DROP COLUMN channel_id;
ALTER TABLE vouchers DROP COLUMN remaining_minor_units;
DROP INDEX purchases_by_intent;
ALTER TABLE purchases DROP COLUMN voucher_held;
ALTER TABLE purchases DROP COLUMN presented_voucher;
ALTER TABLE purchases DROP COLUMN stored_value_minor_units;
ALTER TABLE purchases DROP COLUMN charged_minor_units;
