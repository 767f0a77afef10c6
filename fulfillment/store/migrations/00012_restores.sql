-- +goose Up

-- Times at which the store was restored from a backup, so that it knew less than it had promised: docs/decisions/0018.
-- end_time_us 0: what was lost is being rebuilt. after_token and complete: how much the verifier has told.
CREATE TABLE restores (
    restore_time_us BIGINT  PRIMARY KEY,
    end_time_us     BIGINT  NOT NULL,
    after_token     BLOB    NOT NULL,
    complete        INTEGER NOT NULL
);

-- What is told during a restore, and deleted at its end. The nodes that are waited for: told_epoch is what they reported,
-- -1 before they did; fresh 1 is a node that came back with an empty disk.
CREATE TABLE restore_nodes (
    node_id      BLOB    PRIMARY KEY,
    backup_epoch BIGINT  NOT NULL,
    wanted_epoch BIGINT  NOT NULL,
    told_epoch   BIGINT  NOT NULL,
    fresh        INTEGER NOT NULL
);
CREATE TABLE restore_seals (
    node_id BLOB   NOT NULL,
    epoch   BIGINT NOT NULL,
    PRIMARY KEY (node_id, epoch)
);
CREATE TABLE restore_leases (
    lease_id BLOB   PRIMARY KEY,
    drop_id  BLOB   NOT NULL,
    node_id  BLOB   NOT NULL,
    epoch    BIGINT NOT NULL,
    held     BLOB   NOT NULL -- rimlight.fulfillment.v1.HeldSerials
);
CREATE INDEX restore_leases_by_drop ON restore_leases (drop_id);
CREATE TABLE restore_facts (
    token_id BLOB    NOT NULL,
    drop_id  BLOB    NOT NULL,
    serial   INTEGER NOT NULL,
    lease_id BLOB    NOT NULL,
    standing INTEGER NOT NULL, -- rimlight.fulfillment.v1.UnitStanding
    was_sold INTEGER NOT NULL,
    PRIMARY KEY (token_id, drop_id, serial, lease_id)
);
CREATE INDEX restore_facts_by_drop ON restore_facts (drop_id);
CREATE TABLE restore_orders (
    order_id BLOB PRIMARY KEY,
    told     BLOB NOT NULL -- rimlight.fulfillment.v1.Order
);

-- +goose Down
DROP TABLE restore_orders;
DROP TABLE restore_facts;
DROP TABLE restore_leases;
DROP TABLE restore_seals;
DROP TABLE restore_nodes;
DROP TABLE restores;
