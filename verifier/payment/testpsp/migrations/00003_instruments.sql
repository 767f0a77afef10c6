-- +goose Up
ALTER TABLE psp_intents ADD COLUMN instrument TEXT NOT NULL DEFAULT ''; -- what authorised it; empty: nothing did

-- +goose Down
ALTER TABLE psp_intents DROP COLUMN instrument;
