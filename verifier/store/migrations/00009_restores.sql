-- +goose Up

-- Times at which the store was restored from a backup, so that it knew less than it had acknowledged. end_time 0: nodes'
-- journals are still being read again.
CREATE TABLE restores (
    restore_time BIGINT NOT NULL PRIMARY KEY,
    end_time     BIGINT NOT NULL
);
-- Nodes whose journals have been read again to their end, during a restore.
CREATE TABLE reread_nodes (
    node_id BLOB NOT NULL PRIMARY KEY
);

-- +goose Down
DROP TABLE reread_nodes;
DROP TABLE restores;
