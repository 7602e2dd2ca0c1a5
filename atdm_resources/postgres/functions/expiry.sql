-- Whether a lease is past its time. The range of the index is empty as long as none is, however
-- many runs were leased and given back since; without statistics the planner would read the table.
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

-- Take back ready and leased runs by their ids, whoever holds them: for operators, pools, expiry
-- and the end of a suite. Runs that somebody is working on are passed over. Runs of a domain that
-- is being reset are left (`busy`); where a batch fails, each of its runs is tried alone, and those
-- that fail (`failed`) are left alone for ten minutes.
CREATE OR REPLACE FUNCTION atdm.give_back(
    run_ids text[], strategy text, ended_as text, invoker text, source text
) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    held record;
    run atdm.test_run;
    parts atdm.test_run[];
    result jsonb;
    done text[] := '{}';
    busy text[] := '{}';
    failed jsonb := '[]';
    deleted jsonb := '{}';
    adopted jsonb := '{}';
BEGIN
    FOR held IN
        SELECT m.domain, array_agg(m.run) AS runs
        FROM (SELECT q.domain, r::atdm.test_run AS run
              FROM atdm.test_run AS r JOIN atdm.request AS q USING (request_id)
              WHERE r.test_run_id = ANY (run_ids) AND r.status IN ('ready', 'leased')
              ORDER BY r.test_run_id
              FOR UPDATE OF r SKIP LOCKED) AS m
        GROUP BY m.domain ORDER BY m.domain
    LOOP
        BEGIN
            PERFORM atdm.enter_domain(held.domain);
        EXCEPTION WHEN SQLSTATE 'AT004' THEN
            busy := busy || held.domain;
            CONTINUE;
        END;
        result := atdm.take_back(held.domain, held.runs, invoker, source, strategy);
        IF NOT result ? 'error' THEN
            done := done || atdm.ended(held.runs, ended_as, invoker, source);
            deleted := atdm.added(deleted, held.domain, result -> 'deleted');
            adopted := atdm.added(adopted, held.domain, result -> 'adopted');
            CONTINUE;
        END IF;
        FOREACH run IN ARRAY held.runs LOOP
            parts := ARRAY[run];
            IF cardinality(held.runs) > 1 THEN
                result := atdm.take_back(held.domain, parts, invoker, source, strategy);
            END IF;
            IF result ? 'error' THEN
                UPDATE atdm.test_run AS r SET retry_at = now() + interval '10 minutes'
                WHERE r.test_run_id = run.test_run_id;
                failed := failed || jsonb_build_object(
                    'test_run_id', run.test_run_id, 'error', result -> 'error');
                CONTINUE;
            END IF;
            done := done || atdm.ended(parts, ended_as, invoker, source);
            deleted := atdm.added(deleted, held.domain, result -> 'deleted');
            adopted := atdm.added(adopted, held.domain, result -> 'adopted');
        END LOOP;
    END LOOP;
    RETURN jsonb_build_object('runs', to_jsonb(done), 'deleted', deleted, 'adopted', adopted,
        'failed', failed, 'busy', to_jsonb(busy));
END;
$$;

-- Counts by table added to those of `domain` in `totals`.
CREATE OR REPLACE FUNCTION atdm.added(totals jsonb, domain text, counts jsonb) RETURNS jsonb
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

-- Runs that take_back has cleaned; where their time was up they are expired, which is recorded.
CREATE OR REPLACE FUNCTION atdm.ended(
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
               ended.invoker, ended.source,
               jsonb_build_object('owner', r.owner, 'expires_at', r.expires_at)
        FROM unnest(runs) AS r JOIN atdm.request AS q USING (request_id);
    END IF;
    RETURN ids;
END;
$$;

-- Take back at most `most` leased runs whose time is up. Anybody who may lease may call it: it does
-- what the lease's end says.
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
    RETURN atdm.give_back(due, 'expiry', 'expired',
        coalesce(invoker, 'agent:atdm-expiry'), coalesce(source, 'expiry'));
END;
$$;
