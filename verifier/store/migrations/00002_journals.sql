-- +goose Up

-- How far each journal is durable here. A node that lost its disk begins another journal, whose sequences begin again.
-- What came before journals had names is read once more, which changes nothing.
CREATE TABLE journals (
    node_id    BLOB   NOT NULL,
    journal_id TEXT   NOT NULL,
    sequence   BIGINT NOT NULL,
    PRIMARY KEY (node_id, journal_id)
);
DROP TABLE forwarders;

CREATE TABLE rejected_entries (
    node_id     BLOB   NOT NULL,
    journal_id  TEXT   NOT NULL,
    sequence    BIGINT NOT NULL,
    cause       TEXT   NOT NULL,
    entry       TEXT   NOT NULL,
    reject_time BIGINT NOT NULL,
    PRIMARY KEY (node_id, journal_id, sequence)
);
INSERT INTO rejected_entries (node_id, journal_id, sequence, cause, entry, reject_time)
    SELECT node_id, '', sequence, cause, entry, reject_time FROM rejected;
DROP TABLE rejected;

-- +goose Down
CREATE TABLE rejected (
    node_id     BLOB   NOT NULL,
    sequence    BIGINT NOT NULL,
    cause       TEXT   NOT NULL,
    entry       TEXT   NOT NULL,
    reject_time BIGINT NOT NULL,
    PRIMARY KEY (node_id, sequence)
);
DROP TABLE rejected_entries;
CREATE TABLE forwarders (
    node_id  BLOB   NOT NULL PRIMARY KEY,
    sequence BIGINT NOT NULL
);
DROP TABLE journals;
