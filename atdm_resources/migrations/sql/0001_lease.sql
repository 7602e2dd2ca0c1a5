-- Handing out test runs.

-- 256 bits of a hash over 366 random ones, in a form that can be searched for and put in a URL.
CREATE FUNCTION atdm.new_token() RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'atdm_' || translate(encode(sha256(
        uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
        || uuid_send(gen_random_uuid())), 'base64'), '+/=', '-_')
$$;

-- Record that `run` was leased just now, return what its consumer gets.
CREATE FUNCTION atdm.lease_answer(
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
        'as_of', run.as_of);
END;
$$;

-- Refuse what no lease may have, and fill in what was left open.
CREATE FUNCTION atdm.lease_ttl(ttl interval, fallback interval) RETURNS interval
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

-- Nobody works on a domain while its rows are replaced as a whole, and nothing is written to a
-- database whose mark is missing or was made for another one (a copy of it).
CREATE FUNCTION atdm.enter_domain(domain text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    draining timestamptz;
    marked boolean;
BEGIN
    SELECT d.draining_until,
           EXISTS (SELECT FROM atdm.target AS t WHERE t.database_name = current_database())
    INTO draining, marked
    FROM atdm.domain AS d WHERE d.domain = enter_domain.domain;
    IF NOT FOUND THEN
        PERFORM atdm.fail('TARGET_NOT_INITIALISED',
            format('domain %s is not set up in database %s; run atdm init',
                enter_domain.domain, current_database()),
            jsonb_build_object('domain', enter_domain.domain));
    ELSIF NOT marked THEN
        PERFORM atdm.fail('TARGET_NOT_DISPOSABLE',
            format('database %s is not marked disposable; run atdm init', current_database()),
            jsonb_build_object('database', current_database()));
    END IF;
    IF draining > clock_timestamp()
        OR NOT pg_try_advisory_xact_lock_shared(atdm.domain_lock_key(enter_domain.domain))
    THEN
        PERFORM atdm.fail('BUSY',
            format('domain %s is being reset or restored; try again in a moment',
                enter_domain.domain),
            jsonb_build_object('domain', enter_domain.domain));
    END IF;
END;
$$;

-- Lease a ready test run of a pool: one round trip. `domain` NULL means the default domain, or the
-- only one that has the scenario. Raises SCENARIO_NOT_FOUND, CONSTRAINT_INVALID, NONE_READY, BUSY.
CREATE FUNCTION atdm.lease(
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

-- Lease the ready runs of one request, in order, at most `count` of them. For whoever asked: the
-- runs of a request that is not pooled are reached in no other way.
CREATE FUNCTION atdm.lease_request(
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
CREATE FUNCTION atdm.record_fixtures(
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
