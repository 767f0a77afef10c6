-- +goose Up

ALTER TABLE drop_terms ADD COLUMN per_instrument_cap INTEGER NOT NULL DEFAULT 0; -- 0: none

-- What pays purchases of drops with a cap. An instrument is a keyed hash of the drop and the provider's name of it. Its row
-- here is held while its purchases are counted, so that two of them are counted one after the other.
CREATE TABLE instruments (
    drop_id    BLOB NOT NULL,
    instrument BLOB NOT NULL,
    PRIMARY KEY (drop_id, instrument)
);
-- is_over: it was one too many, so nothing is captured.
CREATE TABLE instrument_uses (
    token_id   BLOB    NOT NULL PRIMARY KEY REFERENCES purchases (token_id),
    drop_id    BLOB    NOT NULL,
    instrument BLOB    NOT NULL,
    is_over    INTEGER NOT NULL
);
CREATE INDEX instrument_uses_of ON instrument_uses (drop_id, instrument);

-- +goose Down
DROP TABLE instrument_uses;
DROP TABLE instruments;
ALTER TABLE drop_terms DROP COLUMN per_instrument_cap;
