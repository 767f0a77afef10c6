-- +goose Up
CREATE TABLE psp_intents (
    intent_id     TEXT    NOT NULL PRIMARY KEY,
    idem_key      TEXT    NOT NULL UNIQUE,
    purchase_id   TEXT    NOT NULL,
    currency_code TEXT    NOT NULL,
    minor_units   BIGINT  NOT NULL,
    reference     TEXT    NOT NULL,
    state         INTEGER NOT NULL,
    decline_code  TEXT    NOT NULL,
    decline_final INTEGER NOT NULL,
    create_time   BIGINT  NOT NULL
);
CREATE INDEX psp_intents_purchase ON psp_intents (purchase_id);

-- One row per capture, never changed: the provider's own books.
CREATE TABLE psp_charges (
    intent_id     TEXT   NOT NULL PRIMARY KEY REFERENCES psp_intents (intent_id),
    purchase_id   TEXT   NOT NULL,
    currency_code TEXT   NOT NULL,
    minor_units   BIGINT NOT NULL,
    charge_time   BIGINT NOT NULL
);
CREATE INDEX psp_charges_purchase ON psp_charges (purchase_id);

-- Faults already injected: each happens once per intent and call.
CREATE TABLE psp_faults (
    idem_key TEXT NOT NULL,
    call     TEXT NOT NULL,
    PRIMARY KEY (idem_key, call)
);

-- +goose Down
DROP TABLE psp_faults;
DROP TABLE psp_charges;
DROP TABLE psp_intents;
