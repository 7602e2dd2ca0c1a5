-- 256 bits of a hash over 366 random ones, in a form that can be searched for and put in a URL.
CREATE OR REPLACE FUNCTION atdm.new_token() RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'atdm_' || translate(encode(sha256(
        uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
        || uuid_send(gen_random_uuid())), 'base64'), '+/=', '-_')
$$;

-- Refuse what no lease may have, and fill in what was left open.
CREATE OR REPLACE FUNCTION atdm.lease_ttl(ttl interval, fallback interval) RETURNS interval
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(ttl, fallback) <= interval '0' OR coalesce(ttl, fallback) > interval '366 days' THEN
        PERFORM atdm.fail('REQUEST_INVALID',
            format('a lease of %s; allowed: more than nothing, at most 366 days', ttl),
            jsonb_build_object('ttl', ttl::text));
    END IF;
    RETURN coalesce(ttl, fallback);
END;
$$;

-- As before, and "overdue": true where somebody's lease is past its time: whoever leases then takes
-- it back, in a transaction of its own.
CREATE OR REPLACE FUNCTION atdm.lease_answer(
    run atdm.test_run, wanted atdm.scenario, token text, invoker text, source text
) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO atdm.audit_event
        (action, domain, scenario_id, request_id, test_run_id, invoker, source, inputs, outputs)
    VALUES
        ('leased', wanted.domain, wanted.scenario_id, run.request_id, run.test_run_id,
         invoker, source, jsonb_build_object('owner', run.owner),
         jsonb_build_object('expires_at', run.expires_at));
    RETURN jsonb_build_object(
        'test_run_id', run.test_run_id,
        'request_id', run.request_id,
        'domain', wanted.domain,
        'scenario_id', wanted.scenario_id,
        'token', token,
        'data', replace(wanted.exposes::text, '{run}', run.test_run_id)::jsonb
            || coalesce(run.data, '{}'),
        'owner', run.owner,
        'expires_at', run.expires_at,
        'seed', (SELECT q.seed FROM atdm.request AS q WHERE q.request_id = run.request_id),
        'as_of', run.as_of)
        -- As in atdm.overdue(), whose settings would cost a lease 50 microseconds.
        || CASE WHEN (
            SELECT true FROM atdm.test_run AS o
            WHERE o.status = 'leased' AND o.expires_at < now()
              AND (o.retry_at IS NULL OR o.retry_at < now())
            ORDER BY o.expires_at LIMIT 1)
        THEN '{"overdue": true}'::jsonb ELSE '{}'::jsonb END;
END;
$$;

-- Lease a ready test run of a pool: one round trip. `domain` NULL means the default domain, or the
-- only one that has the scenario. Raises SCENARIO_NOT_FOUND, CONSTRAINT_INVALID, NONE_READY, BUSY.
CREATE OR REPLACE FUNCTION atdm.lease(
    domain text,
    scenario text,
    constraints jsonb DEFAULT '{}',
    owner text DEFAULT NULL,
    ttl interval DEFAULT NULL,
    owner_secret_sha256 bytea DEFAULT NULL,
    max_age interval DEFAULT NULL,
    invoker text DEFAULT NULL,
    source text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- Planning once is enough, and the order of the index is the point of the query: without statistics
-- the planner would sort.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
AS $$
DECLARE
    wanted atdm.scenario;
    run atdm.test_run;
    key uuid;
    oldest timestamptz;
    moment timestamptz := clock_timestamp();
    start real := random();
    token text := atdm.new_token();
    hashed bytea;
BEGIN
    SELECT s.* INTO wanted
    FROM atdm.scenario AS s
    WHERE s.current AND s.scenario_id = scenario AND s.domain = coalesce(
        lease.domain,
        (SELECT t.default_domain FROM atdm.target AS t
         WHERE EXISTS (SELECT FROM atdm.scenario AS o
                       WHERE o.current AND o.scenario_id = scenario
                         AND o.domain = t.default_domain)),
        (SELECT min(o.domain) FROM atdm.scenario AS o
         WHERE o.current AND o.scenario_id = scenario HAVING count(*) = 1));
    IF NOT FOUND THEN
        PERFORM atdm.fail('SCENARIO_NOT_FOUND',
            format('no scenario %s is published in %s', scenario,
                coalesce('domain ' || lease.domain, 'the default domain')),
            jsonb_build_object('scenario', scenario, 'domain', lease.domain, 'known', (
                SELECT coalesce(jsonb_agg(DISTINCT s.scenario_id), '[]')
                FROM atdm.scenario AS s
                WHERE s.current AND s.domain = coalesce(lease.domain, s.domain))));
    END IF;
    PERFORM atdm.enter_domain(wanted.domain);
    IF constraints IS NULL OR constraints = '{}' THEN
        key := wanted.default_pool_key;
    ELSE
        key := atdm.pool_key(wanted.domain, wanted.scenario_id, wanted.version,
            atdm.effective_constraints(wanted.parameters, wanted.defaults, constraints));
    END IF;
    owner := coalesce(owner, session_user);
    ttl := atdm.lease_ttl(ttl, wanted.lease_ttl);
    oldest := moment - coalesce(lease.max_age, wanted.max_age);
    hashed := sha256(convert_to(token, 'UTF8'));
    -- From a random place to the end, then from the beginning: clients do not meet at one row, and
    -- none of them walks over the runs that were leased before.
    UPDATE atdm.test_run AS r
    SET status = 'leased', token_sha256 = hashed, owner = lease.owner,
        owner_secret_sha256 = lease.owner_secret_sha256, leased_at = moment,
        expires_at = moment + ttl
    WHERE r.ctid = (
        SELECT p.ctid FROM atdm.test_run AS p
        WHERE p.status = 'ready' AND p.pool_key = key AND p.pick >= start AND p.as_of >= oldest
        ORDER BY p.pick LIMIT 1
        FOR UPDATE SKIP LOCKED)
    RETURNING r.* INTO run;
    IF NOT FOUND THEN
        UPDATE atdm.test_run AS r
        SET status = 'leased', token_sha256 = hashed, owner = lease.owner,
            owner_secret_sha256 = lease.owner_secret_sha256, leased_at = moment,
            expires_at = moment + ttl
        WHERE r.ctid = (
            SELECT p.ctid FROM atdm.test_run AS p
            WHERE p.status = 'ready' AND p.pool_key = key AND p.pick < start AND p.as_of >= oldest
            ORDER BY p.pick LIMIT 1
            FOR UPDATE SKIP LOCKED)
        RETURNING r.* INTO run;
    END IF;
    IF NOT FOUND THEN
        PERFORM atdm.fail('NONE_READY',
            format('no ready test run of %s/%s with these constraints',
                wanted.domain, wanted.scenario_id),
            jsonb_build_object('domain', wanted.domain, 'scenario', wanted.scenario_id));
    END IF;
    RETURN atdm.lease_answer(run, wanted, token,
        coalesce(invoker, 'human:' || session_user), coalesce(source, 'sql'));
END;
$$;

-- The id of run `number` of a request: six digits of Crockford's base 32.
CREATE OR REPLACE FUNCTION atdm.run_id(request_id text, number integer) RETURNS text
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT left(request_id, 20) || string_agg(
        substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', (number >> (25 - 5 * n) & 31) + 1, 1), ''
        ORDER BY n)
    FROM generate_series(0, 5) AS n
$$;

-- Lease the ready runs of one request, in order, at most `count` of them. For whoever asked: the
-- runs of a request that is not pooled are reached in no other way.
CREATE OR REPLACE FUNCTION atdm.lease_request(
    request_id text,
    owner text DEFAULT NULL,
    ttl interval DEFAULT NULL,
    owner_secret_sha256 bytea DEFAULT NULL,
    count integer DEFAULT NULL,
    invoker text DEFAULT NULL,
    source text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asked atdm.request;
    wanted atdm.scenario;
    run atdm.test_run;
    moment timestamptz := clock_timestamp();
    token text;
    result jsonb[] := '{}';
BEGIN
    SELECT q.* INTO asked FROM atdm.request AS q WHERE q.request_id = lease_request.request_id;
    IF NOT FOUND THEN
        PERFORM atdm.fail('RUN_NOT_FOUND', format('no request %s', lease_request.request_id));
    END IF;
    PERFORM atdm.enter_domain(asked.domain);
    SELECT s.* INTO wanted FROM atdm.scenario AS s
    WHERE s.domain = asked.domain AND s.scenario_id = asked.scenario_id
      AND s.version = asked.scenario_version;
    ttl := atdm.lease_ttl(ttl, wanted.lease_ttl);
    FOR run IN
        SELECT r.* FROM atdm.test_run AS r
        WHERE r.test_run_id > asked.request_id
          AND r.test_run_id <= left(asked.request_id, 20) || 'ZZZZZZ'
          AND r.status = 'ready'
        ORDER BY r.test_run_id
        LIMIT lease_request.count
        FOR UPDATE SKIP LOCKED
    LOOP
        token := atdm.new_token();
        UPDATE atdm.test_run AS r
        SET status = 'leased', token_sha256 = sha256(convert_to(token, 'UTF8')),
            owner = coalesce(lease_request.owner, session_user),
            owner_secret_sha256 = lease_request.owner_secret_sha256, leased_at = moment,
            expires_at = moment + ttl
        WHERE r.test_run_id = run.test_run_id
        RETURNING r.* INTO run;
        result := result || atdm.lease_answer(run, wanted, token,
            coalesce(invoker, 'human:' || session_user), coalesce(source, 'sql'));
    END LOOP;
    IF result = '{}' THEN
        PERFORM atdm.fail('NONE_READY',
            format('request %s has no ready test run (it is %s)', asked.request_id, asked.status),
            jsonb_build_object('request_id', asked.request_id, 'status', asked.status));
    END IF;
    RETURN to_jsonb(result);
END;
$$;

-- Record which fixture files were written for a leased run (requirement A-AUD-07). Whoever holds the
-- token wrote them; the token itself is not recorded.
CREATE OR REPLACE FUNCTION atdm.record_fixtures(
    test_run_id text,
    token text,
    fixtures jsonb,
    invoker text DEFAULT NULL,
    source text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run atdm.test_run;
BEGIN
    SELECT r.* INTO run FROM atdm.test_run AS r
    WHERE r.test_run_id = record_fixtures.test_run_id AND r.status = 'leased';
    IF sha256(convert_to(coalesce(token, ''), 'UTF8')) IS DISTINCT FROM run.token_sha256 THEN
        PERFORM atdm.fail('TOKEN_MISMATCH', 'the token does not fit the test run',
            jsonb_build_object('test_run_id', left(record_fixtures.test_run_id, 64)));
    END IF;
    INSERT INTO atdm.audit_event
        (action, domain, scenario_id, request_id, test_run_id, invoker, source, outputs)
    SELECT 'fixtures_emitted', q.domain, q.scenario_id, q.request_id, run.test_run_id,
           coalesce(record_fixtures.invoker, 'human:' || session_user),
           coalesce(record_fixtures.source, 'sql'), jsonb_build_object('fixtures', fixtures)
    FROM atdm.request AS q WHERE q.request_id = run.request_id;
END;
$$;
