-- A hash of what a copy of this target contains: catalog version, tables, published scenarios.
CREATE OR REPLACE FUNCTION atdm.bundle_fingerprint() RETURNS text
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
