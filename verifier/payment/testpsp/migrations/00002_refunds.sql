-- +goose Up
-- One row per refund, never changed but for its state: 1 pending, 2 succeeded, 3 failed.
CREATE TABLE psp_refunds (
    idem_key    TEXT    NOT NULL PRIMARY KEY,
    refund_id   TEXT    NOT NULL,
    intent_id   TEXT    NOT NULL REFERENCES psp_intents (intent_id),
    minor_units BIGINT  NOT NULL,
    state       INTEGER NOT NULL,
    settle_time BIGINT  NOT NULL,
    create_time BIGINT  NOT NULL
);
CREATE INDEX psp_refunds_intent ON psp_refunds (intent_id);

-- Errors that are answered again for as long as their key lives.
CREATE TABLE psp_kept_errors (
    idem_key    TEXT   NOT NULL PRIMARY KEY,
    subject     TEXT   NOT NULL,
    create_time BIGINT NOT NULL
);
CREATE INDEX psp_kept_errors_subject ON psp_kept_errors (subject);

-- Hints that are not delivered yet; copy tells duplicates apart.
CREATE TABLE psp_hints (
    hint_id   TEXT    NOT NULL,
    copy      INTEGER NOT NULL,
    intent_id TEXT    NOT NULL,
    due_time  BIGINT  NOT NULL,
    PRIMARY KEY (hint_id, copy)
);
CREATE INDEX psp_hints_due ON psp_hints (due_time);

-- +goose Down
DROP TABLE psp_hints;
DROP TABLE psp_kept_errors;
DROP TABLE psp_refunds;
