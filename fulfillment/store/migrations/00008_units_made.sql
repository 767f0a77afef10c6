-- +goose Up

-- How many units of the drop are rows of units: serials 1 to made. The others are FREE, and get rows when they are lent.
ALTER TABLE drops ADD COLUMN made INTEGER NOT NULL DEFAULT 0;
UPDATE drops SET made = units;

-- +goose Down
INSERT INTO units (drop_id, serial, state)
    WITH RECURSIVE serials (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM serials WHERE n < (SELECT MAX(units) FROM drops))
    SELECT d.drop_id, s.n, 1 FROM drops d JOIN serials s ON s.n > d.made AND s.n <= d.units;
ALTER TABLE drops DROP COLUMN made;
