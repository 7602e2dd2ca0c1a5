-- Whether a lease has expired. If none has, the range of the index is empty, however many leases
-- there were. Without statistics, the planner would read the table.
CREATE OR REPLACE FUNCTION atdm.overdue() RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
AS $$
BEGIN
    PERFORM FROM atdm.test_run AS r
    WHERE r.status = 'leased' AND r.expires_at < now()
      AND (r.retry_at IS NULL OR r.retry_at < now())
    ORDER BY r.expires_at LIMIT 1;
    RETURN FOUND;
END;
$$;

-- Reset ready and leased runs by their ids, without tokens: for operators, pools, expiry and the
-- end of a suite. Runs that another transaction has locked are skipped, and so are those of a
-- domain that is being reset (`busy`). If a batch fails, each of its runs is tried alone; those
-- that fail (`failed`) are not tried again for ten minutes.
CREATE OR REPLACE FUNCTION atdm.reclaim(
    run_ids text[], strategy text, ended_as text, invoker text, source text
) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    of_domain record;
    run atdm.test_run;
    parts atdm.test_run[];
    result jsonb;
    done text[] := '{}';
    busy text[] := '{}';
    failed jsonb := '[]';
    deleted jsonb := '{}';
    adopted jsonb := '{}';
BEGIN
    FOR of_domain IN
        SELECT m.domain, array_agg(m.run) AS runs
        FROM (SELECT q.domain, r::atdm.test_run AS run
              FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)
              WHERE r.test_run_id = ANY (run_ids) AND r.status IN ('ready', 'leased')
              ORDER BY r.test_run_id
              FOR UPDATE OF r SKIP LOCKED) AS m
        GROUP BY m.domain ORDER BY m.domain
    LOOP
        BEGIN
            PERFORM atdm.enter_domain(of_domain.domain);
        EXCEPTION WHEN SQLSTATE 'AT004' THEN
            busy := busy || of_domain.domain;
            CONTINUE;
        END;
        result := atdm.reset_runs(of_domain.domain, of_domain.runs, invoker, source, strategy);
        IF NOT result ? 'error' THEN
            done := done || atdm.end_runs(of_domain.runs, ended_as, invoker, source);
            deleted := atdm.add_counts(deleted, of_domain.domain, result -> 'deleted');
            adopted := atdm.add_counts(adopted, of_domain.domain, result -> 'adopted');
            CONTINUE;
        END IF;
        FOREACH run IN ARRAY of_domain.runs LOOP
            parts := ARRAY[run];
            IF cardinality(of_domain.runs) > 1 THEN
                result := atdm.reset_runs(of_domain.domain, parts, invoker, source, strategy);
            END IF;
            IF result ? 'error' THEN
                UPDATE atdm.test_run AS r SET retry_at = now() + interval '10 minutes'
                WHERE r.test_run_id = run.test_run_id;
                failed := failed || jsonb_build_object(
                    'test_run_id', run.test_run_id, 'error', result -> 'error');
                CONTINUE;
            END IF;
            done := done || atdm.end_runs(parts, ended_as, invoker, source);
            deleted := atdm.add_counts(deleted, of_domain.domain, result -> 'deleted');
            adopted := atdm.add_counts(adopted, of_domain.domain, result -> 'adopted');
        END LOOP;
    END LOOP;
    RETURN jsonb_build_object('runs', to_jsonb(done), 'deleted', deleted, 'adopted', adopted,
        'failed', failed, 'busy', to_jsonb(busy));
END;
$$;

-- `totals` with the counts by table added to those of `domain`.
CREATE OR REPLACE FUNCTION atdm.add_counts(totals jsonb, domain text, counts jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT totals || jsonb_build_object(domain, coalesce(
        (SELECT jsonb_object_agg(c.name, c.n) FROM (
            SELECT e.key AS name, sum(e.value::bigint) AS n
            FROM (SELECT * FROM jsonb_each_text(coalesce(totals -> domain, '{}'))
                  UNION ALL SELECT * FROM jsonb_each_text(coalesce(counts, '{}'))) AS e
            GROUP BY e.key) AS c), '{}'))
$$;

-- The ids of runs that were reset. If their leases had expired, their status and an event say so.
CREATE OR REPLACE FUNCTION atdm.end_runs(
    runs atdm.test_run[], ended_as text, invoker text, source text
) RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ids text[] := ARRAY(SELECT r.test_run_id FROM unnest(runs) AS r);
BEGIN
    IF ended_as = 'expired' THEN
        UPDATE atdm.test_run AS r SET status = 'expired' WHERE r.test_run_id = ANY (ids);
        INSERT INTO atdm.audit_event
            (action, status, domain, scenario_id, request_id, test_run_id, invoker, source, inputs)
        SELECT 'lease_expired', 'expired', q.domain, q.scenario_id, r.request_id, r.test_run_id,
               end_runs.invoker, end_runs.source,
               jsonb_build_object('owner', r.owner, 'expires_at', r.expires_at)
        FROM unnest(runs) AS r JOIN atdm.request AS q USING (request_id);
    END IF;
    RETURN ids;
END;
$$;

-- Reset at most `most` runs whose leases have expired. Any client may call it.
CREATE OR REPLACE FUNCTION atdm.expire_due(
    most integer DEFAULT 100, invoker text DEFAULT NULL, source text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    due text[];
BEGIN
    IF atdm.overdue() THEN
        SELECT array_agg(d.test_run_id) INTO due
        FROM (SELECT r.test_run_id FROM atdm.test_run AS r
              WHERE r.status = 'leased' AND r.expires_at < now()
                AND (r.retry_at IS NULL OR r.retry_at < now())
              ORDER BY r.expires_at LIMIT least(greatest(most, 1), 10000)
              FOR UPDATE SKIP LOCKED) AS d;
    END IF;
    IF due IS NULL THEN
        RETURN '{"runs": [], "deleted": {}, "adopted": {}, "failed": [], "busy": []}';
    END IF;
    RETURN atdm.reclaim(due, 'expiry', 'expired',
        coalesce(invoker, 'agent:atdm-expiry'), coalesce(source, 'expiry'));
END;
$$;
