-- +goose Up

-- What is forgotten after a drop is SETTLED is found by these: reason 131 is a token that was cancelled.
CREATE INDEX purchases_cancelled ON purchases (drop_id, token_id) WHERE reason = 131;

-- Events of forgotten tokens are deleted with them. The table's reference to purchases would make the engines look for
-- every deleted purchase in an index over all events, which nothing else needs.
CREATE TABLE events_new (
    cursor     BIGINT  NOT NULL PRIMARY KEY,
    token_id   BLOB    NOT NULL,
    state      INTEGER NOT NULL,
    reason     INTEGER NOT NULL,
    event_time BIGINT  NOT NULL
);
INSERT INTO events_new (cursor, token_id, state, reason, event_time) SELECT cursor, token_id, state, reason, event_time FROM events;
DROP TABLE events;
ALTER TABLE events_new RENAME TO events;
CREATE INDEX events_cancelled ON events (token_id) WHERE reason = 131;

-- +goose Down
DROP INDEX events_cancelled;
DROP INDEX purchases_cancelled;
