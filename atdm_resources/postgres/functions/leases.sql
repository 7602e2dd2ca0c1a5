-- A token: 256 bits of a hash over 366 random bits, safe in URLs, with a prefix to search for.
CREATE OR REPLACE FUNCTION atdm.new_token() RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'atdm_' || translate(encode(sha256(
        uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
        || uuid_send(gen_random_uuid())), 'base64'), '+/=', '-_')
$$;

-- The duration of a lease; `fallback` if none is given. Raises REQUEST_INVALID outside the limits.
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

-- Record that `run` was leased just now, and return the lease. "overdue": true asks the client to
-- reset an expired lease in a transaction of its own.
CREATE OR REPLACE FUNCTION atdm.lease_answer(
    run atdm.test_run, scenario atdm.scenario, token text, invoker text, source text
) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO atdm.audit_event
        (action, domain, scenario_id, request_id, test_run_id, invoker, source, inputs, outputs)
    VALUES
        ('leased', scenario.domain, scenario.scenario_id, run.request_id, run.test_run_id,
         invoker, source, jsonb_build_object('owner', run.owner),
         jsonb_build_object('expires_at', run.expires_at));
    RETURN jsonb_build_object(
        'test_run_id', run.test_run_id,
        'request_id', run.request_id,
        'domain', scenario.domain,
        'scenario_id', scenario.scenario_id,
        'token', token,
        'data', replace(scenario.exposes::text, '{run}', run.test_run_id)::jsonb
            || coalesce(run.data, '{}'),
        'owner', run.owner,
        'expires_at', run.expires_at,
        'seed', (SELECT q.seed FROM atdm.request AS q WHERE q.request_id = run.request_id),
        'as_of', run.as_of)
        -- The condition of atdm.overdue(), whose settings would take 50 microseconds per lease.
        || CASE WHEN (
            SELECT true FROM atdm.test_run AS o
            WHERE o.status = 'leased' AND o.expires_at < now()
              AND (o.retry_at IS NULL OR o.retry_at < now())
            ORDER BY o.expires_at LIMIT 1)
        THEN '{"overdue": true}'::jsonb ELSE '{}'::jsonb END;
END;
$$;

-- Lease a ready test run of a pool, in one round trip. Raises SCENARIO_NOT_FOUND,
-- CONSTRAINT_INVALID, REQUEST_INVALID, NONE_READY, and the errors of enter_domain.
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
-- One plan is enough, and it has to use the order of the index: without statistics, the planner
-- would sort.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
AS $$
DECLARE
    chosen atdm.scenario := atdm.published_scenario(domain, scenario);
    run atdm.test_run;
    key uuid;
    oldest timestamptz;
    moment timestamptz := clock_timestamp();
    lowest real := random();
    highest real := 'infinity';
    token text := atdm.new_token();
    hashed bytea;
BEGIN
    PERFORM atdm.enter_domain(chosen.domain);
    IF constraints IS NULL OR constraints = '{}' THEN
        key := chosen.default_pool_key;
    ELSE
        key := atdm.pool_key(chosen.domain, chosen.scenario_id, chosen.version,
            atdm.effective_constraints(chosen.parameters, chosen.defaults, constraints));
    END IF;
    owner := coalesce(owner, session_user);
    ttl := atdm.lease_ttl(ttl, chosen.lease_ttl);
    oldest := moment - coalesce(lease.max_age, chosen.max_age);
    hashed := sha256(convert_to(token, 'UTF8'));
    -- From a random place to the end, then from the start: clients do not compete for one row, and
    -- do not step over the runs that were leased before.
    FOR round IN 1..2 LOOP
        UPDATE atdm.test_run AS r
        SET status = 'leased', token_sha256 = hashed, owner = lease.owner,
            owner_secret_sha256 = lease.owner_secret_sha256, leased_at = moment,
            expires_at = moment + ttl
        WHERE r.ctid = (
            SELECT p.ctid FROM atdm.test_run AS p
            WHERE p.status = 'ready' AND p.pool_key = key AND p.as_of >= oldest
              AND p.pick >= lowest AND p.pick < highest
            ORDER BY p.pick LIMIT 1
            FOR UPDATE SKIP LOCKED)
        RETURNING r.* INTO run;
        EXIT WHEN FOUND;
        highest := lowest;
        lowest := 0;
    END LOOP;
    IF run.test_run_id IS NULL THEN
        PERFORM atdm.fail('NONE_READY',
            format('no ready test run of %s/%s with these constraints',
                chosen.domain, chosen.scenario_id),
            jsonb_build_object('domain', chosen.domain, 'scenario', chosen.scenario_id));
    END IF;
    RETURN atdm.lease_answer(run, chosen, token,
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

-- Lease the ready runs of one request, in order, at most `count` of them. The only way to the runs
-- of a request that is not pooled. Raises RUN_NOT_FOUND, NONE_READY, and the errors of
-- enter_domain.
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
    request atdm.request;
    scenario atdm.scenario;
    run atdm.test_run;
    moment timestamptz := clock_timestamp();
    token text;
    result jsonb[] := '{}';
BEGIN
    SELECT q.* INTO request FROM atdm.request AS q WHERE q.request_id = lease_request.request_id;
    IF NOT FOUND THEN
        PERFORM atdm.fail('RUN_NOT_FOUND', format('no request %s', lease_request.request_id));
    END IF;
    PERFORM atdm.enter_domain(request.domain);
    SELECT s.* INTO scenario FROM atdm.scenario AS s
    WHERE s.domain = request.domain AND s.scenario_id = request.scenario_id
      AND s.version = request.scenario_version;
    ttl := atdm.lease_ttl(ttl, scenario.lease_ttl);
    FOR run IN
        SELECT r.* FROM atdm.test_run AS r
        WHERE r.test_run_id > request.request_id
          AND r.test_run_id <= left(request.request_id, 20) || 'ZZZZZZ'
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
        result := result || atdm.lease_answer(run, scenario, token,
            coalesce(invoker, 'human:' || session_user), coalesce(source, 'sql'));
    END LOOP;
    IF result = '{}' THEN
        PERFORM atdm.fail('NONE_READY',
            format('request %s has no ready test run (it is %s)',
                request.request_id, request.status),
            jsonb_build_object('request_id', request.request_id, 'status', request.status));
    END IF;
    RETURN to_jsonb(result);
END;
$$;

-- Record the fixture files that the holder of a lease has written (requirement A-AUD-07). The token
-- itself is not recorded. Raises TOKEN_MISMATCH.
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
