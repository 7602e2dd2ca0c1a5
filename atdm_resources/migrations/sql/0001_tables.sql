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
    CONSTRAINT pk_scenario PRIMARY KEY (domain, scenario_id, version),
    CONSTRAINT fk_scenario_domain FOREIGN KEY (domain) REFERENCES atdm.domain
);
CREATE UNIQUE INDEX uq_scenario_current ON atdm.scenario (domain, scenario_id) WHERE current;
COMMENT ON COLUMN atdm.scenario.exposes IS
    'Name to key, with {run} where the test run id stands; what cannot follow from it is in test_run.data.';

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
    CONSTRAINT pk_test_run PRIMARY KEY (test_run_id),
    CONSTRAINT ck_test_run_status CHECK (status IN ('ready', 'leased', 'cleaned', 'expired'))
) WITH (fillfactor = 80);
CREATE INDEX ix_test_run_ready ON atdm.test_run (pool_key, pick)
    WHERE status = 'ready' AND pool_key IS NOT NULL;
CREATE INDEX ix_test_run_leased ON atdm.test_run (owner, expires_at) WHERE status = 'leased';
COMMENT ON COLUMN atdm.test_run.pool_key IS
    'Domain, scenario, version and effective constraints as one value; NULL: never leased from a pool.';

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
    CONSTRAINT pk_audit_event PRIMARY KEY (event_id)
);
-- Who looks for a run knows its request: it follows from the run's id.
CREATE INDEX ix_audit_event_request_id ON atdm.audit_event (request_id, test_run_id);
