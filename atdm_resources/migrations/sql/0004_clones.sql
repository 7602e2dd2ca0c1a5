-- Clones that are made ahead, leased by token, and dropped by whoever finds that their time is over.

ALTER TABLE atdm.clone
    ALTER COLUMN baseline_id DROP NOT NULL,
    ADD COLUMN fingerprint text COLLATE "C",
    ADD COLUMN latest boolean NOT NULL DEFAULT false,
    ADD COLUMN source text COLLATE "C",
    ADD COLUMN token_sha256 bytea,
    ADD COLUMN fresh_until timestamptz,
    ADD COLUMN used_at timestamptz,
    ADD COLUMN dropped_at timestamptz,
    ADD COLUMN retry_at timestamptz,
    DROP CONSTRAINT ck_clone_status,
    ADD CONSTRAINT ck_clone_status
        CHECK (status IN ('making', 'ready', 'leased', 'dropping', 'dropped')),
    ADD CONSTRAINT ck_clone_source CHECK (source IN ('pool', 'template', 'cold'));
COMMENT ON COLUMN atdm.clone.baseline_id IS 'NULL: initialised, without rows of a baseline.';
COMMENT ON COLUMN atdm.clone.fingerprint IS
    'atdm.bundle_fingerprint() of the target when it was made: another one, and it is out of date.';
COMMENT ON COLUMN atdm.clone.latest IS
    'Made from whatever was the newest baseline at created_at: a newer one, and it is out of date.';
COMMENT ON COLUMN atdm.clone.fresh_until IS 'A ready clone is not handed out after this.';
COMMENT ON COLUMN atdm.clone.used_at IS 'When a template was last copied.';
COMMENT ON COLUMN atdm.clone.retry_at IS 'Dropping it failed: not tried again before.';

DROP INDEX atdm.ix_clone_baseline;
CREATE INDEX ix_clone_baseline ON atdm.clone (domain, baseline_id, kind, status)
    WHERE status <> 'dropped';
CREATE INDEX ix_clone_dropped_at ON atdm.clone (dropped_at) WHERE status = 'dropped';

-- What a copy of this target's catalog holds: its version, its tables and the published scenarios.
CREATE FUNCTION atdm.bundle_fingerprint() RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT left(encode(sha256(convert_to(concat_ws('|',
        (SELECT v.version_num FROM atdm.alembic_version AS v),
        (SELECT string_agg(s.domain || '/' || s.scenario_id || '@' || s.version, ','
                           ORDER BY s.domain, s.scenario_id, s.version)
         FROM atdm.scenario AS s WHERE s.current),
        (SELECT string_agg(t.domain || '/' || t.table_name, ',' ORDER BY t.domain, t.table_name)
         FROM atdm.domain_table AS t)), 'UTF8')), 'hex'), 32)
$$;

REVOKE ALL ON FUNCTION atdm.bundle_fingerprint() FROM PUBLIC;
