-- The catalog: published scenarios, requests, test runs and their leases, and the audit trail.

CREATE TABLE atdm.target (
    only_row boolean DEFAULT true,
    database_name text NOT NULL,
    disposable_because text NOT NULL,
    marked_at timestamptz NOT NULL DEFAULT now(),
    default_domain text NOT NULL,
    CONSTRAINT pk_target PRIMARY KEY (only_row),
    CONSTRAINT ck_target_only_row CHECK (only_row),
    CONSTRAINT ck_target_because CHECK (disposable_because IN ('empty', 'named'))
);
COMMENT ON TABLE atdm.target IS
    'The mark that the named database, and no copy of it, may be written to and reset.';

CREATE TABLE atdm.domain (
    domain text COLLATE "C",
    next_number bigint NOT NULL DEFAULT 0,
    draining_until timestamptz,
    CONSTRAINT pk_domain PRIMARY KEY (domain)
);
COMMENT ON COLUMN atdm.domain.next_number IS
    'First unused number of unique columns. Each request takes a range of numbers.';
COMMENT ON COLUMN atdm.domain.draining_until IS
    'Until then, no new work starts: an operation waits for the exclusive lock, and prolongs this.';

CREATE TABLE atdm.domain_table (
    domain text COLLATE "C",
    table_name text COLLATE "C",
    schema_name text COLLATE "C" NOT NULL,
    load_order integer NOT NULL,
    CONSTRAINT pk_domain_table PRIMARY KEY (domain, table_name),
    CONSTRAINT fk_domain_table_domain FOREIGN KEY (domain) REFERENCES atdm.domain
);

CREATE TABLE atdm.scenario (
    domain text COLLATE "C",
    scenario_id text COLLATE "C",
    version text COLLATE "C",
    current boolean NOT NULL,
    description text NOT NULL,
    tags text[] NOT NULL,
    linked_requirement_ids text[] NOT NULL,
    parameters jsonb NOT NULL,
    defaults jsonb NOT NULL,
    default_pool_key uuid NOT NULL,
    exposes jsonb NOT NULL,
    violates boolean NOT NULL,
    pool_ready integer NOT NULL,
    max_age interval NOT NULL,
    lease_ttl interval NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    parts jsonb,
    CONSTRAINT pk_scenario PRIMARY KEY (domain, scenario_id, version),
    CONSTRAINT fk_scenario_domain FOREIGN KEY (domain) REFERENCES atdm.domain
);
CREATE UNIQUE INDEX uq_scenario_current ON atdm.scenario (domain, scenario_id) WHERE current;
COMMENT ON COLUMN atdm.scenario.exposes IS
    'Keys by name, with {run} for the test run id. Keys that do not follow from it: test_run.data.';
COMMENT ON COLUMN atdm.scenario.parts IS
    'Hashes of the parts that the version covers, to tell what changed between two versions.';

CREATE TABLE atdm.request (
    request_id text COLLATE "C",
    label text COLLATE "C" NOT NULL,
    domain text COLLATE "C" NOT NULL,
    scenario_id text COLLATE "C" NOT NULL,
    scenario_version text COLLATE "C" NOT NULL,
    given jsonb NOT NULL,
    effective jsonb NOT NULL,
    seed bigint NOT NULL,
    seed_given boolean NOT NULL,
    as_of timestamptz NOT NULL,
    as_of_given boolean NOT NULL,
    runs integer NOT NULL,
    number_base bigint NOT NULL,
    pooled boolean NOT NULL,
    status text COLLATE "C" NOT NULL,
    invoker text NOT NULL,
    source text NOT NULL,
    reason text NOT NULL DEFAULT '',
    delivery jsonb NOT NULL DEFAULT '{}',
    dagster_run_id text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    content_hash text,
    tables jsonb NOT NULL DEFAULT '{}',
    error jsonb,
    partition_removed_at timestamptz,
    CONSTRAINT pk_request PRIMARY KEY (request_id),
    CONSTRAINT uq_request_label UNIQUE (domain, scenario_id, label),
    CONSTRAINT fk_request_scenario FOREIGN KEY (domain, scenario_id, scenario_version)
        REFERENCES atdm.scenario,
    CONSTRAINT ck_request_id CHECK (request_id ~ '^[0-7][0-9A-HJKMNP-TV-Z]{19}000000$'),
    CONSTRAINT ck_request_label CHECK (label ~ '^[A-Za-z0-9_-]{1,64}$'),
    CONSTRAINT ck_request_runs CHECK (runs BETWEEN 1 AND 1073741823),
    CONSTRAINT ck_request_seed CHECK (seed >= 0),
    CONSTRAINT ck_request_status
        CHECK (status IN ('pending', 'ready', 'rejected', 'rolled_back', 'retired'))
);
CREATE INDEX ix_request_pending ON atdm.request (created_at) WHERE status = 'pending';
CREATE INDEX ix_request_kept ON atdm.request (finished_at)
    WHERE partition_removed_at IS NULL AND status <> 'pending';
COMMENT ON COLUMN atdm.request.partition_removed_at IS
    'When its partition key and staged files were removed. The request itself is kept.';

-- No foreign key to request: it would be checked for each of a million runs of one request.
CREATE TABLE atdm.test_run (
    test_run_id text COLLATE "C",
    request_id text COLLATE "C" NOT NULL
        GENERATED ALWAYS AS (left(test_run_id, 20) || '000000') STORED,
    status text COLLATE "C" NOT NULL DEFAULT 'ready',
    pool_key uuid,
    pick real NOT NULL DEFAULT random(),
    as_of timestamptz NOT NULL,
    data jsonb,
    token_sha256 bytea,
    owner text COLLATE "C",
    owner_secret_sha256 bytea,
    leased_at timestamptz,
    expires_at timestamptz,
    ended_at timestamptz,
    deleted jsonb,
    cleanup_strategy text COLLATE "C",
    retry_at timestamptz,
    CONSTRAINT pk_test_run PRIMARY KEY (test_run_id),
    CONSTRAINT ck_test_run_status CHECK (status IN ('ready', 'leased', 'cleaned', 'expired')),
    CONSTRAINT ck_test_run_cleanup_strategy
        CHECK (cleanup_strategy IN ('after_test', 'after_suite', 'leave'))
) WITH (fillfactor = 80);
CREATE INDEX ix_test_run_ready ON atdm.test_run (pool_key, pick)
    WHERE status = 'ready' AND pool_key IS NOT NULL;
CREATE INDEX ix_test_run_leased ON atdm.test_run (owner, expires_at) WHERE status = 'leased';
CREATE INDEX ix_test_run_expires_at ON atdm.test_run (expires_at) WHERE status = 'leased';
COMMENT ON COLUMN atdm.test_run.pool_key IS
    'Hash of domain, scenario, version and effective constraints; NULL: not leased from a pool.';
COMMENT ON COLUMN atdm.test_run.cleanup_strategy IS
    'When the run is reset: after its test, after its suite, or (leave) when its lease expires.';
COMMENT ON COLUMN atdm.test_run.retry_at IS
    'A reset failed: the next attempt is not made before.';

CREATE TABLE atdm.audit_event (
    event_id bigint GENERATED ALWAYS AS IDENTITY,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    action text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL DEFAULT 'ok',
    domain text COLLATE "C",
    scenario_id text COLLATE "C",
    request_id text COLLATE "C",
    test_run_id text COLLATE "C",
    invoker text NOT NULL,
    source text NOT NULL,
    inputs jsonb NOT NULL DEFAULT '{}',
    tools_called jsonb NOT NULL DEFAULT '[]',
    outputs jsonb NOT NULL DEFAULT '{}',
    schema_version integer NOT NULL DEFAULT 1,
    began timestamptz DEFAULT now(),
    CONSTRAINT pk_audit_event PRIMARY KEY (event_id)
);
-- Also finds the events of a run, whose id contains the request id.
CREATE INDEX ix_audit_event_request_id ON atdm.audit_event (request_id, test_run_id);
CREATE INDEX ix_audit_event_xid ON atdm.audit_event (xid, event_id);
COMMENT ON COLUMN atdm.audit_event.began IS
    'When the transaction of the event started, to tell how long it took. Not sealed.';

-- The sealed trail: the hash of each event covers the hash before it. An event is sealed when no
-- open transaction can write an earlier one any more.
CREATE TABLE atdm.audit_seal (
    seal_number bigint,
    event_id bigint NOT NULL,
    xid xid8 NOT NULL,
    hash bytea NOT NULL,
    sealed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_audit_seal PRIMARY KEY (seal_number),
    CONSTRAINT uq_audit_seal_event_id UNIQUE (event_id),
    CONSTRAINT ck_audit_seal_hash CHECK (octet_length(hash) = 32)
);
COMMENT ON COLUMN atdm.audit_seal.seal_number IS 'From 1, without gaps, in the order of the chain.';

CREATE TABLE atdm.audit_export (
    first_seal bigint,
    last_seal bigint NOT NULL,
    files jsonb,
    exported_at timestamptz,
    CONSTRAINT pk_audit_export PRIMARY KEY (first_seal),
    CONSTRAINT ck_audit_export_range CHECK (last_seal >= first_seal)
);
COMMENT ON TABLE atdm.audit_export IS
    'A range of seals and its files. Without files it was started, and is written again.';

-- Baselines that this target has made or restored. Only the store knows which exist: baselines of
-- other targets can be restored here too.
CREATE TABLE atdm.baseline (
    domain text COLLATE "C",
    baseline_id text COLLATE "C",
    kind text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    store_url text NOT NULL,
    invoker text NOT NULL,
    source text NOT NULL,
    reason text NOT NULL DEFAULT '',
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    rows bigint,
    bytes bigint,
    content_hash text,
    error jsonb,
    restored_at timestamptz,
    restored_by text,
    CONSTRAINT pk_baseline PRIMARY KEY (domain, baseline_id),
    CONSTRAINT ck_baseline_id CHECK (baseline_id ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    CONSTRAINT ck_baseline_kind CHECK (kind IN ('captured', 'generated')),
    CONSTRAINT ck_baseline_status CHECK (status IN ('capturing', 'complete', 'failed', 'deleted'))
);
COMMENT ON COLUMN atdm.baseline.restored_at IS
    'When the baseline was last restored here. Later changes are not recorded.';

-- Databases made from a baseline, and the templates that they are copied from.
CREATE TABLE atdm.clone (
    database_name text COLLATE "C",
    domain text COLLATE "C" NOT NULL,
    baseline_id text COLLATE "C",
    kind text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    owner text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    leased_at timestamptz,
    expires_at timestamptz,
    fingerprint text COLLATE "C",
    latest boolean NOT NULL DEFAULT false,
    source text COLLATE "C",
    token_sha256 bytea,
    fresh_until timestamptz,
    used_at timestamptz,
    dropped_at timestamptz,
    retry_at timestamptz,
    CONSTRAINT pk_clone PRIMARY KEY (database_name),
    CONSTRAINT ck_clone_kind CHECK (kind IN ('template', 'clone')),
    CONSTRAINT ck_clone_status
        CHECK (status IN ('making', 'ready', 'leased', 'dropping', 'dropped')),
    CONSTRAINT ck_clone_source CHECK (source IN ('pool', 'template', 'cold'))
);
CREATE INDEX ix_clone_baseline ON atdm.clone (domain, baseline_id, kind, status)
    WHERE status <> 'dropped';
CREATE INDEX ix_clone_dropped_at ON atdm.clone (dropped_at) WHERE status = 'dropped';
COMMENT ON COLUMN atdm.clone.baseline_id IS 'NULL: tables without the rows of a baseline.';
COMMENT ON COLUMN atdm.clone.fingerprint IS
    'atdm.bundle_fingerprint() of the target when it was made. If they differ, it is outdated.';
COMMENT ON COLUMN atdm.clone.latest IS
    'Made from the newest baseline at created_at. If there is a newer one, it is outdated.';
COMMENT ON COLUMN atdm.clone.fresh_until IS 'A ready clone is not leased after this.';
COMMENT ON COLUMN atdm.clone.used_at IS 'When a template was last copied.';
COMMENT ON COLUMN atdm.clone.retry_at IS 'Dropping it failed: the next attempt is not made before.';

-- The request that fills a pool: one per scenario at a time.
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
    'The request that fills the pool; NULL: none.';
COMMENT ON COLUMN atdm.top_up.failures IS
    'Consecutive failures. Each doubles the wait for the next attempt, up to an hour.';

-- The queue: a submission asks for data and gets its answer in the same row, without tokens. The
-- client leases the data by the idempotency key.
CREATE TABLE atdm.submission (
    submission_id bigint GENERATED ALWAYS AS IDENTITY,
    idempotency_key text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL DEFAULT 'waiting',
    priority integer NOT NULL DEFAULT 0,
    payload jsonb NOT NULL,
    origin text COLLATE "C" NOT NULL,
    file_name text COLLATE "C",
    invoker text NOT NULL,
    secret_sha256 bytea,
    domain text COLLATE "C",
    scenario_id text COLLATE "C",
    group_key text COLLATE "C",
    runs integer NOT NULL DEFAULT 1,
    request_id text COLLATE "C",
    first_run integer,
    launched_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    claimed_at timestamptz,
    answer jsonb,
    answered_at timestamptz,
    published_at timestamptz,
    submitted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_submission PRIMARY KEY (submission_id),
    CONSTRAINT uq_submission_idempotency_key UNIQUE (idempotency_key),
    CONSTRAINT ck_submission_kind CHECK (kind IN ('request', 'suite_started', 'suite_finished')),
    CONSTRAINT ck_submission_status
        CHECK (status IN ('waiting', 'launched', 'fulfilled', 'rejected')),
    CONSTRAINT ck_submission_answered
        CHECK ((status IN ('fulfilled', 'rejected')) = (answer IS NOT NULL))
);
COMMENT ON COLUMN atdm.submission.group_key IS
    'Scenario and effective constraints: one request makes the data of all with the same key.';
CREATE INDEX ix_submission_waiting
    ON atdm.submission (group_key, priority, submission_id) WHERE status = 'waiting';
CREATE INDEX ix_submission_launched ON atdm.submission (request_id) WHERE status = 'launched';
CREATE INDEX ix_submission_request_id ON atdm.submission (request_id);
CREATE INDEX ix_submission_unpublished ON atdm.submission (submission_id)
    WHERE origin = 'inbox' AND answer IS NOT NULL AND published_at IS NULL;

-- Outcomes of tests: one row for each run that a test used.
CREATE TABLE atdm.test_outcome (
    outcome_id bigint GENERATED ALWAYS AS IDENTITY,
    session text COLLATE "C" NOT NULL,
    nodeid text COLLATE "C" NOT NULL,
    test_run_id text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    duration_seconds double precision NOT NULL,
    at timestamptz NOT NULL,
    domain text COLLATE "C" NOT NULL,
    scenario_id text COLLATE "C" NOT NULL,
    scenario_version text COLLATE "C" NOT NULL,
    requirement_ids text[] NOT NULL,
    seed bigint NOT NULL,
    recorded_by text NOT NULL DEFAULT session_user,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_test_outcome PRIMARY KEY (outcome_id),
    CONSTRAINT uq_test_outcome UNIQUE (session, nodeid, test_run_id, at),
    CONSTRAINT ck_test_outcome_outcome
        CHECK (outcome IN ('passed', 'failed', 'error', 'skipped'))
);
COMMENT ON TABLE atdm.test_outcome IS
    'As reported by clients. They are kept when the run is deleted from the catalog.';
COMMENT ON COLUMN atdm.test_outcome.requirement_ids IS
    'Of the scenario when the outcome was recorded, so that later changes do not affect it.';
CREATE INDEX ix_test_outcome_test_run_id ON atdm.test_outcome (test_run_id);
CREATE INDEX ix_test_outcome_at ON atdm.test_outcome (at);

-- Counters over the audit trail, stored so that reading them does not read the trail.
CREATE TABLE atdm.metric_count (
    metric text COLLATE "C",
    labels text[] COLLATE "C",
    value double precision NOT NULL,
    CONSTRAINT pk_metric_count PRIMARY KEY (metric, labels)
);
COMMENT ON TABLE atdm.metric_count IS
    'Sums over all events that are visible in metric_state.counted. They only grow.';

CREATE TABLE atdm.metric_state (
    only_row boolean DEFAULT true,
    counted pg_snapshot NOT NULL DEFAULT '1:1:',
    sealed bigint NOT NULL DEFAULT 0,
    definition integer NOT NULL DEFAULT 0,
    counted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_metric_state PRIMARY KEY (only_row),
    CONSTRAINT ck_metric_state_only_row CHECK (only_row)
);
COMMENT ON COLUMN atdm.metric_state.counted IS
    'The events visible in this snapshot are counted.';
COMMENT ON COLUMN atdm.metric_state.sealed IS
    'The last seal that was checked for missing events.';
COMMENT ON COLUMN atdm.metric_state.definition IS
    'Version of the counters. A newer version counts all events again.';
INSERT INTO atdm.metric_state DEFAULT VALUES;

CREATE TABLE atdm.reset_function (
    domain text COLLATE "C",
    relations oid[] NOT NULL,
    fingerprint text NOT NULL,
    CONSTRAINT pk_reset_function PRIMARY KEY (domain)
);
COMMENT ON TABLE atdm.reset_function IS
    'The tables and foreign keys that the functions atdm.delete_<domain> were written for.';
