-- +goose Up

-- 1 ACTIVE: sold from. 2 QUARANTINED: its node lost its disk, retired or was fenced; what it sold still settles.
-- 3 CLOSED: nothing of it settles any more.
ALTER TABLE leases ADD COLUMN state INTEGER NOT NULL DEFAULT 1;
ALTER TABLE leases ADD COLUMN quarantine_time_us BIGINT; -- NULL: never
CREATE INDEX leases_quarantined ON leases (quarantine_time_us, lease_id) WHERE state = 2;

-- A node's process lives are numbered in its journal; boot_id tells two apart that have the same number.
ALTER TABLE nodes ADD COLUMN life BIGINT NOT NULL DEFAULT 0;
ALTER TABLE nodes ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';

-- Every disk that a node ever joined from: one that another took the place of stays out.
CREATE TABLE node_disks (
    node_id BLOB   NOT NULL REFERENCES nodes (node_id),
    disk_id TEXT   NOT NULL,
    epoch   BIGINT NOT NULL,
    PRIMARY KEY (node_id, disk_id)
);
INSERT INTO node_disks (node_id, disk_id, epoch) SELECT node_id, disk_id, epoch FROM nodes;

-- +goose Down
DROP TABLE node_disks;
ALTER TABLE nodes DROP COLUMN boot_id;
ALTER TABLE nodes DROP COLUMN life;
DROP INDEX leases_quarantined;
ALTER TABLE leases DROP COLUMN quarantine_time_us;
ALTER TABLE leases DROP COLUMN state;
