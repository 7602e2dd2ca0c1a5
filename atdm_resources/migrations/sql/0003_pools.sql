-- Who fills which pool at the moment: one request a scenario at a time.

CREATE TABLE atdm.top_up (
    domain text COLLATE "C",
    scenario_id text COLLATE "C",
    request_id text COLLATE "C",
    runs integer,
    claimed_at timestamptz,
    failures integer NOT NULL DEFAULT 0,
    retry_at timestamptz,
    CONSTRAINT pk_top_up PRIMARY KEY (domain, scenario_id)
);
COMMENT ON COLUMN atdm.top_up.request_id IS
    'The request that fills the pool; NULL: nobody does.';
COMMENT ON COLUMN atdm.top_up.failures IS
    'In a row: each doubles the time until the next attempt, up to an hour.';
