-- The catalog: what is published, what was asked for, what was made, who holds it, what happened.

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
    'The mark that this database may be written to and reset; it holds for the named database alone.';

CREATE TABLE atdm.domain (
    domain text COLLATE "C",
    next_number bigint NOT NULL DEFAULT 0,
    draining_until timestamptz,
    CONSTRAINT pk_domain PRIMARY KEY (domain)
);
COMMENT ON COLUMN atdm.domain.next_number IS
    'First unused number for unique columns: each request takes a range of its own.';
COMMENT ON COLUMN atdm.domain.draining_until IS
    'While in the future, nothing new starts: somebody waits for the domain alone and renews it.';

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
    'Name to key, with {run} where the test run id stands; what cannot follow from it is in test_run.data.';
COMMENT ON COLUMN atdm.scenario.parts IS
    'What the version covers, part by part, as digests: tells what changed between two versions.';

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
    'When its partition key and its staged files were removed; the request itself stays as history.';

-- No foreign key to request: it would be checked once for each of a million runs of one request.
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
    'Domain, scenario, version and effective constraints as one value; NULL: never leased from a pool.';
COMMENT ON COLUMN atdm.test_run.cleanup_strategy IS
    'Who gives the run back: its test, the end of its suite, or (leave) nobody before it expires.';
COMMENT ON COLUMN atdm.test_run.retry_at IS
    'Taking the run back failed: not tried again before.';

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
-- Who looks for a run knows its request: it follows from the run's id.
CREATE INDEX ix_audit_event_request_id ON atdm.audit_event (request_id, test_run_id);
CREATE INDEX ix_audit_event_xid ON atdm.audit_event (xid, event_id);
COMMENT ON COLUMN atdm.audit_event.began IS
    'When the transaction started that the event belongs to; for how long writing it took, not sealed.';

-- The sealed trail: each event's hash covers the hash before it. An event is sealed once no
-- transaction is open that could still write one before it.
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
COMMENT ON COLUMN atdm.audit_seal.seal_number IS 'From 1 without gaps, in the order of the chain.';

CREATE TABLE atdm.audit_export (
    first_seal bigint,
    last_seal bigint NOT NULL,
    files jsonb,
    exported_at timestamptz,
    CONSTRAINT pk_audit_export PRIMARY KEY (first_seal),
    CONSTRAINT ck_audit_export_range CHECK (last_seal >= first_seal)
);
COMMENT ON TABLE atdm.audit_export IS
    'A range of seals and the files it is in; without files: begun, to be written again.';

-- Baselines as this target saw them made and restored. What exists is decided by the store: a
-- baseline made from another target is restored here like one of its own.

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
    'When this target was last brought to this baseline; what happened since is not known from it.';

-- Databases made from a baseline. A template is the one that the others are copied from.
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
COMMENT ON COLUMN atdm.clone.baseline_id IS 'NULL: initialised, without rows of a baseline.';
COMMENT ON COLUMN atdm.clone.fingerprint IS
    'atdm.bundle_fingerprint() of the target when it was made: another one, and it is out of date.';
COMMENT ON COLUMN atdm.clone.latest IS
    'Made from whatever was the newest baseline at created_at: a newer one, and it is out of date.';
COMMENT ON COLUMN atdm.clone.fresh_until IS 'A ready clone is not handed out after this.';
COMMENT ON COLUMN atdm.clone.used_at IS 'When a template was last copied.';
COMMENT ON COLUMN atdm.clone.retry_at IS 'Dropping it failed: not tried again before.';

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

-- The queue: asking for data by a row. What is asked is answered in the same row, without tokens;
-- whoever asked leases by the idempotency key.
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
    'Submissions with the same key are made by one request: scenario and effective constraints.';
CREATE INDEX ix_submission_waiting
    ON atdm.submission (group_key, priority, submission_id) WHERE status = 'waiting';
CREATE INDEX ix_submission_launched ON atdm.submission (request_id) WHERE status = 'launched';
CREATE INDEX ix_submission_request_id ON atdm.submission (request_id);
CREATE INDEX ix_submission_unpublished ON atdm.submission (submission_id)
    WHERE origin = 'inbox' AND answer IS NOT NULL AND published_at IS NULL;

-- What tests made of their data: one row for each run that a test used.

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
    'As told by whoever may lease. A run that is deleted from the catalog keeps its outcomes.';
COMMENT ON COLUMN atdm.test_outcome.requirement_ids IS
    'Those of the scenario when the outcome was recorded: a file that changes later changes no history.';
CREATE INDEX ix_test_outcome_test_run_id ON atdm.test_outcome (test_run_id);
CREATE INDEX ix_test_outcome_at ON atdm.test_outcome (at);

-- Counters over the audit trail, kept so that reading them does not cost reading the trail.
CREATE TABLE atdm.metric_count (
    metric text COLLATE "C",
    labels text[] COLLATE "C",
    value double precision NOT NULL,
    CONSTRAINT pk_metric_count PRIMARY KEY (metric, labels)
);
COMMENT ON TABLE atdm.metric_count IS
    'Sums over every event that metric_state.counted sees. They only grow.';

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
    'The events that are counted are those that this snapshot sees.';
COMMENT ON COLUMN atdm.metric_state.sealed IS
    'The last seal that was looked at for an event that is missing.';
COMMENT ON COLUMN atdm.metric_state.definition IS
    'Which version of the counters this is; a newer one counts everything anew.';
INSERT INTO atdm.metric_state DEFAULT VALUES;

CREATE TABLE atdm.reset_function (
    domain text COLLATE "C",
    relations oid[] NOT NULL,
    fingerprint text NOT NULL,
    CONSTRAINT pk_reset_function PRIMARY KEY (domain)
);
COMMENT ON TABLE atdm.reset_function IS
    'The tables and foreign keys that the functions atdm.delete_<domain> were written for.';
