-- +goose Up

-- Orders that operators took from microfulfillment nodes that are lost: who did, why, and what it met.
CREATE TABLE requeues (
    request_id      TEXT   PRIMARY KEY,
    node_id         TEXT   NOT NULL,
    role            TEXT   NOT NULL,
    requeue_time_us BIGINT NOT NULL,
    request         BLOB   NOT NULL, -- rimlight.fulfillment.v1.RequeueOrdersRequest
    seen_time_us    BIGINT NOT NULL, -- 0: it was forgotten
    requeued        BIGINT NOT NULL,
    dead            BIGINT NOT NULL,
    cleared         BIGINT NOT NULL
);

-- +goose Down
DROP TABLE requeues;
