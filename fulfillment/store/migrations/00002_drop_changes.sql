-- +goose Up

ALTER TABLE drops ADD COLUMN paused_time_us BIGINT; -- NULL while the clock alone decides

-- What operators changed after planning, and in which role.
CREATE TABLE drop_changes (
    request_id     TEXT   PRIMARY KEY,
    drop_id        BLOB   NOT NULL REFERENCES drops (drop_id),
    role           TEXT   NOT NULL,
    change_time_us BIGINT NOT NULL,
    request        BLOB   NOT NULL -- rimlight.fulfillment.v1.ChangeDropRequest
);
CREATE INDEX drop_changes_by_drop ON drop_changes (drop_id, change_time_us);

-- +goose Down
DROP TABLE drop_changes;
ALTER TABLE drops DROP COLUMN paused_time_us;
