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
    baseline_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    owner text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    leased_at timestamptz,
    expires_at timestamptz,
    CONSTRAINT pk_clone PRIMARY KEY (database_name),
    CONSTRAINT ck_clone_kind CHECK (kind IN ('template', 'clone')),
    CONSTRAINT ck_clone_status CHECK (status IN ('making', 'ready', 'leased'))
);
CREATE INDEX ix_clone_baseline ON atdm.clone (domain, baseline_id, kind, status);

REVOKE ALL ON atdm.baseline, atdm.clone FROM PUBLIC;
