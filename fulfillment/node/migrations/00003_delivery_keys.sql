-- +goose Up

-- The keys that delivery details are sealed to: sealed.Key. They never leave this store.
CREATE TABLE delivery_keys (
    private         BLOB   PRIMARY KEY,
    make_time_us    BIGINT NOT NULL,
    replace_time_us BIGINT NOT NULL -- 0: the current one; others are deleted when nothing sealed to them can come any more
);

-- What an order's details are sealed for.
ALTER TABLE inbox ADD COLUMN drop_id TEXT NOT NULL DEFAULT '';
ALTER TABLE inbox ADD COLUMN purchase_id TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE inbox DROP COLUMN purchase_id;
ALTER TABLE inbox DROP COLUMN drop_id;
DROP TABLE delivery_keys;
