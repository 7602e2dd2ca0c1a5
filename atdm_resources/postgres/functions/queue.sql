-- The problems of a submission, as texts. Without any it can be recorded.
CREATE OR REPLACE FUNCTION atdm.submission_problems(submission jsonb) RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    known text[] := ARRAY['as_of', 'baseline', 'build', 'cleanup_strategy', 'constraints',
        'domain', 'file_name', 'idempotency_key', 'invoker', 'kind', 'owner', 'priority', 'reason',
        'revoke_leases', 'runs', 'scenario', 'secret_sha256', 'seed', 'source', 'ttl'];
    texts text[] := ARRAY['as_of', 'baseline', 'build', 'domain', 'file_name', 'invoker', 'owner',
        'reason', 'scenario', 'source', 'ttl'];
    kind text := coalesce(submission ->> 'kind', 'request');
    found text[] := '{}';
    name text;
    length interval;
    moment timestamptz;
BEGIN
    IF jsonb_typeof(submission) IS DISTINCT FROM 'object' THEN
        RETURN ARRAY['a submission is a JSON object'];
    END IF;
    IF length(submission::text) > 100000 THEN
        RETURN ARRAY['a submission has at most 100000 characters'];
    END IF;
    FOR name IN SELECT k FROM jsonb_object_keys(submission) AS k WHERE k <> ALL (known) ORDER BY k
    LOOP
        found := found || format('unknown field %s; known: %s', left(name, 64),
            array_to_string(known, ', '));
    END LOOP;
    FOREACH name IN ARRAY texts LOOP
        IF jsonb_typeof(submission -> name) NOT IN ('string', 'null') THEN
            found := found || format('%s must be text', name);
        END IF;
    END LOOP;
    IF jsonb_typeof(submission -> 'idempotency_key') IS DISTINCT FROM 'string'
        OR submission ->> 'idempotency_key' !~ '^[!-~]{1,200}$'
    THEN
        found := found || 'idempotency_key must be 1 to 200 visible ASCII characters'::text;
    END IF;
    IF kind NOT IN ('request', 'suite_started', 'suite_finished') THEN
        found := found || format('kind is %s; allowed: request, suite_started, suite_finished',
            left(kind, 64));
    END IF;
    IF kind = 'request' AND coalesce(submission ->> 'scenario', '') = '' THEN
        found := found || 'scenario is missing'::text;
    END IF;
    IF kind = 'suite_finished' AND coalesce(submission ->> 'build', '') = '' THEN
        found := found || 'build is missing: the owner whose test runs are reset'::text;
    END IF;
    IF coalesce(jsonb_typeof(submission -> 'constraints'), 'object') <> 'object' THEN
        found := found || 'constraints must be a JSON object'::text;
    END IF;
    IF submission ? 'revoke_leases' AND jsonb_typeof(submission -> 'revoke_leases') <> 'boolean'
    THEN
        found := found || 'revoke_leases must be true or false'::text;
    END IF;
    IF submission ? 'runs' AND coalesce(submission ->> 'runs', '') !~ '^[1-9][0-9]{0,3}$' THEN
        found := found || 'runs must be a number from 1 to 9999'::text;
    END IF;
    IF submission ? 'priority' AND coalesce(submission ->> 'priority', '') !~ '^-?[0-9]{1,3}$' THEN
        found := found || 'priority must be a number from -999 to 999, greater is sooner'::text;
    END IF;
    IF coalesce(submission ->> 'seed', '0') !~ '^[0-9]{1,18}$' THEN
        found := found || 'seed must be a number of at most 18 digits'::text;
    END IF;
    IF coalesce(submission ->> 'cleanup_strategy', 'leave')
        NOT IN ('after_test', 'after_suite', 'leave')
    THEN
        found := found || format('cleanup_strategy is %s; allowed: after_test, after_suite, leave',
            left(submission ->> 'cleanup_strategy', 64));
    END IF;
    IF coalesce(submission ->> 'secret_sha256', repeat('0', 64)) !~ '^[0-9a-f]{64}$' THEN
        found := found || 'secret_sha256 must be 64 hexadecimal digits'::text;
    END IF;
    IF coalesce(submission ->> 'invoker', 'human:x') !~ '^[a-z][a-z0-9_-]{0,31}:[!-~]{1,96}$' THEN
        found := found || 'invoker must be human:<name> or agent:<id>'::text;
    END IF;
    BEGIN
        length := (submission ->> 'ttl')::interval;
        IF length <= interval '0' OR length > interval '366 days' THEN
            found := found || 'ttl must be more than nothing and at most 366 days'::text;
        END IF;
    EXCEPTION WHEN data_exception THEN
        found := found || 'ttl must be a length of time like 30m or 4 hours'::text;
    END;
    BEGIN
        moment := (submission ->> 'as_of')::timestamptz;
    EXCEPTION WHEN data_exception THEN
        found := found || 'as_of must be a timestamp like 2026-01-31T12:00:00Z'::text;
    END;
    RETURN found;
END;
$$;

-- Put a submission into the queue. Fields: idempotency_key, kind (request | suite_started |
-- suite_finished), priority; scenario (or domain and scenario), constraints, runs, seed, as_of,
-- owner, ttl, cleanup_strategy, reason, secret_sha256 (of the secret needed to claim); build,
-- baseline, revoke_leases for suites. The same key with the same values is the same submission,
-- with other values REQUEST_CONFLICT. An unknown scenario or constraint is answered (rejected) at
-- once.
CREATE OR REPLACE FUNCTION atdm.submit(submission jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    problems text[] := atdm.submission_problems(submission);
    kind text;
    scenario atdm.scenario;
    entry atdm.submission;
    named text[];
    state text := 'waiting';
    refusal jsonb;
    code text;
    message text;
    detail text;
    key text;
    invoker text;
BEGIN
    IF problems <> '{}' THEN
        PERFORM atdm.fail('REQUEST_INVALID', array_to_string(problems, '; '),
            jsonb_build_object('refused', to_jsonb(problems)));
    END IF;
    kind := coalesce(submission ->> 'kind', 'request');
    invoker := coalesce(submission ->> 'invoker', 'human:' || session_user);
    SELECT s.* INTO entry FROM atdm.submission AS s
    WHERE s.idempotency_key = submission ->> 'idempotency_key';
    IF FOUND THEN
        RETURN atdm.existing_submission(entry, submission);
    END IF;
    IF kind = 'request' THEN
        BEGIN
            named := string_to_array(submission ->> 'scenario', '/');
            IF cardinality(named) > 1 THEN
                scenario := atdm.published_scenario(named[1], named[2]);
            ELSE
                scenario := atdm.published_scenario(submission ->> 'domain', named[1]);
            END IF;
            key := atdm.pool_key(scenario.domain, scenario.scenario_id, scenario.version,
                atdm.effective_constraints(scenario.parameters, scenario.defaults,
                    coalesce(submission -> 'constraints', '{}')))::text;
            -- Another seed or as_of makes other data: the submission needs a request of its own.
            IF submission ->> 'seed' IS NOT NULL OR submission ->> 'as_of' IS NOT NULL THEN
                key := key || ':' || (submission ->> 'idempotency_key');
            END IF;
        EXCEPTION WHEN SQLSTATE 'AT001' OR SQLSTATE 'AT002' THEN
            GET STACKED DIAGNOSTICS
                code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
            state := 'rejected';
            refusal := jsonb_build_object('status', 'rejected',
                'error', atdm.error_fields(code, message, detail));
        END;
    END IF;
    INSERT INTO atdm.submission AS s
        (idempotency_key, kind, status, priority, payload, origin, file_name, invoker,
         secret_sha256, domain, scenario_id, group_key, runs, answer, answered_at)
    VALUES
        (submission ->> 'idempotency_key', kind, state,
         coalesce((submission ->> 'priority')::integer, 0), submission - 'secret_sha256',
         coalesce(submission ->> 'source', 'sql'), submission ->> 'file_name', invoker,
         decode(submission ->> 'secret_sha256', 'hex'),
         coalesce(scenario.domain, submission ->> 'domain'), scenario.scenario_id, key,
         coalesce((submission ->> 'runs')::integer, 1), refusal,
         CASE WHEN refusal IS NOT NULL THEN clock_timestamp() END)
    ON CONFLICT (idempotency_key) DO NOTHING
    RETURNING s.* INTO entry;
    IF NOT FOUND THEN
        SELECT s.* INTO entry FROM atdm.submission AS s
        WHERE s.idempotency_key = submission ->> 'idempotency_key';
        RETURN atdm.existing_submission(entry, submission);
    END IF;
    INSERT INTO atdm.audit_event
        (action, status, domain, scenario_id, invoker, source, inputs, outputs)
    VALUES ('submitted', state, entry.domain, entry.scenario_id, invoker, entry.origin,
        jsonb_build_object('idempotency_key', entry.idempotency_key, 'kind', kind,
            'scenario', submission -> 'scenario', 'constraints', submission -> 'constraints',
            'runs', entry.runs, 'reason', submission -> 'reason', 'build', submission -> 'build'),
        coalesce(refusal, '{}'));
    RETURN atdm.submission_answer(entry) || '{"created": true}';
END;
$$;

-- The answer to anyone who knows the key: status, keys of the data or errors, never a token.
CREATE OR REPLACE FUNCTION atdm.submission_answer(entry atdm.submission) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('idempotency_key', entry.idempotency_key, 'kind', entry.kind,
        'status', entry.status, 'request_id', entry.request_id, 'runs', entry.runs,
        'claimed', entry.claimed_at IS NOT NULL, 'submitted_at', entry.submitted_at,
        'answered_at', entry.answered_at, 'answer', entry.answer)
$$;

-- The answer to a submission with a key that exists. Raises REQUEST_CONFLICT if values differ.
CREATE OR REPLACE FUNCTION atdm.existing_submission(entry atdm.submission, submission jsonb)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ignored text[] := ARRAY['file_name', 'invoker', 'priority', 'reason', 'secret_sha256',
        'source'];
BEGIN
    IF entry.payload - ignored <> submission - ignored
        OR entry.secret_sha256 IS DISTINCT FROM decode(submission ->> 'secret_sha256', 'hex')
    THEN
        PERFORM atdm.fail('REQUEST_CONFLICT',
            format('%s was submitted before, with other values', entry.idempotency_key),
            jsonb_build_object('idempotency_key', entry.idempotency_key));
    END IF;
    RETURN atdm.submission_answer(entry) || '{"created": false}';
END;
$$;

-- The submission with this key, locked. Raises RUN_NOT_FOUND if its secret is another one.
CREATE OR REPLACE FUNCTION atdm.find_submission(idempotency_key text, secret text)
RETURNS atdm.submission
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry atdm.submission;
BEGIN
    SELECT s.* INTO entry FROM atdm.submission AS s
    WHERE s.idempotency_key = find_submission.idempotency_key
      AND (s.secret_sha256 IS NULL
           OR s.secret_sha256 = sha256(convert_to(coalesce(secret, ''), 'UTF8')))
    FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM atdm.fail('RUN_NOT_FOUND',
            format('no submission %s for this secret', left(find_submission.idempotency_key, 200)));
    END IF;
    RETURN entry;
END;
$$;

CREATE OR REPLACE FUNCTION atdm.submission_status(idempotency_key text, secret text DEFAULT NULL)
RETURNS jsonb
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT atdm.submission_answer(atdm.find_submission(idempotency_key, secret))
$$;

-- Lease the runs of a fulfilled submission, once: only this answer has their tokens. Raises
-- RUN_NOT_FOUND (also for a wrong secret), NONE_READY while the submission waits, its own error if
-- it was rejected, REQUEST_CONFLICT the second time.
CREATE OR REPLACE FUNCTION atdm.claim(
    idempotency_key text,
    secret text DEFAULT NULL,
    owner text DEFAULT NULL,
    ttl interval DEFAULT NULL,
    owner_secret_sha256 bytea DEFAULT NULL,
    invoker text DEFAULT NULL,
    source text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    entry atdm.submission := atdm.find_submission(idempotency_key, secret);
    request atdm.request;
    scenario atdm.scenario;
    run atdm.test_run;
    moment timestamptz := clock_timestamp();
    token text;
    result jsonb[] := '{}';
BEGIN
    IF entry.kind <> 'request' THEN
        PERFORM atdm.fail('REQUEST_INVALID', format('%s asks for no test runs', entry.kind));
    ELSIF entry.status = 'rejected' THEN
        PERFORM atdm.fail(entry.answer #>> '{error,code}', entry.answer #>> '{error,message}',
            coalesce(entry.answer #> '{error,details}', '{}'));
    ELSIF entry.claimed_at IS NOT NULL THEN
        PERFORM atdm.fail('REQUEST_CONFLICT',
            format('the test runs of %s are leased already; their tokens were shown then',
                entry.idempotency_key),
            jsonb_build_object('idempotency_key', entry.idempotency_key));
    END IF;
    SELECT q.* INTO request FROM atdm.request AS q WHERE q.request_id = entry.request_id;
    IF request.status IS DISTINCT FROM 'ready' THEN
        PERFORM atdm.fail('NONE_READY',
            format('%s is %s, its request %s', entry.idempotency_key, entry.status,
                coalesce(request.status, 'not made yet')),
            jsonb_build_object('idempotency_key', entry.idempotency_key, 'status', entry.status));
    END IF;
    PERFORM atdm.enter_domain(request.domain);
    SELECT s.* INTO scenario FROM atdm.scenario AS s
    WHERE s.domain = request.domain AND s.scenario_id = request.scenario_id
      AND s.version = request.scenario_version;
    ttl := atdm.lease_ttl(coalesce(ttl, (entry.payload ->> 'ttl')::interval), scenario.lease_ttl);
    FOR run IN
        SELECT r.* FROM atdm.test_run AS r
        WHERE r.test_run_id >= atdm.run_id(request.request_id, entry.first_run)
          AND r.test_run_id <= atdm.run_id(request.request_id, entry.first_run + entry.runs - 1)
          AND r.status = 'ready'
        ORDER BY r.test_run_id
        FOR UPDATE
    LOOP
        token := atdm.new_token();
        UPDATE atdm.test_run AS r
        SET status = 'leased', token_sha256 = sha256(convert_to(token, 'UTF8')),
            owner = coalesce(claim.owner, entry.payload ->> 'owner', entry.payload ->> 'build',
                session_user),
            owner_secret_sha256 = claim.owner_secret_sha256, leased_at = moment,
            expires_at = moment + ttl,
            cleanup_strategy = coalesce(entry.payload ->> 'cleanup_strategy', 'after_test')
        WHERE r.test_run_id = run.test_run_id
        RETURNING r.* INTO run;
        result := result || atdm.lease_answer(run, scenario, token,
            coalesce(invoker, entry.invoker), coalesce(source, entry.origin));
    END LOOP;
    IF cardinality(result) <> entry.runs THEN
        PERFORM atdm.fail('NONE_READY',
            format('%s of the %s test runs of %s are still ready: they waited too long',
                cardinality(result), entry.runs, entry.idempotency_key),
            jsonb_build_object('idempotency_key', entry.idempotency_key));
    END IF;
    UPDATE atdm.submission AS s SET claimed_at = moment
    WHERE s.submission_id = entry.submission_id;
    RETURN to_jsonb(result);
END;
$$;

-- Answer the submissions of a request that has ended. If another attempt may help, they wait again,
-- up to three attempts in all. Returns how many were answered and how many wait again.
CREATE OR REPLACE FUNCTION atdm.settle(
    request_id text, failure jsonb DEFAULT NULL, OUT answered integer, OUT again integer
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    request atdm.request;
    scenario atdm.scenario;
    problem jsonb;
BEGIN
    answered := 0;
    again := 0;
    SELECT q.* INTO request FROM atdm.request AS q WHERE q.request_id = settle.request_id;
    IF request.status = 'pending' OR (request.status IS NULL AND failure IS NULL) THEN
        RETURN;
    END IF;
    IF request.status IN ('ready', 'retired') THEN
        SELECT s.* INTO scenario FROM atdm.scenario AS s
        WHERE s.domain = request.domain AND s.scenario_id = request.scenario_id
          AND s.version = request.scenario_version;
        UPDATE atdm.submission AS s
        SET status = 'fulfilled', answered_at = clock_timestamp(), answer = (
            SELECT jsonb_build_object('status', 'ready', 'request_id', request.request_id,
                'test_run_ids', jsonb_agg(r.test_run_id ORDER BY r.test_run_id),
                'data', jsonb_agg(replace(scenario.exposes::text, '{run}', r.test_run_id)::jsonb
                    || coalesce(r.data, '{}') ORDER BY r.test_run_id))
            FROM atdm.test_run AS r
            WHERE r.test_run_id >= atdm.run_id(request.request_id, s.first_run)
              AND r.test_run_id <= atdm.run_id(request.request_id, s.first_run + s.runs - 1))
        WHERE s.request_id = request.request_id AND s.status = 'launched';
        GET DIAGNOSTICS answered = ROW_COUNT;
        RETURN;
    END IF;
    IF request.status = 'rejected' AND (request.error #>> '{details,expected}')::boolean THEN
        UPDATE atdm.submission AS s
        SET status = 'fulfilled', answered_at = clock_timestamp(), answer = jsonb_build_object(
            'status', 'rejected', 'expected', true, 'request_id', request.request_id,
            'violates', request.error #> '{details,failed}')
        WHERE s.request_id = request.request_id AND s.status = 'launched';
        GET DIAGNOSTICS answered = ROW_COUNT;
        RETURN;
    END IF;
    problem := coalesce(request.error, failure,
        '{"code": "SEED_FAILED", "message": "the request was rolled back", "details": {}}');
    IF problem ->> 'code' IN ('SEED_FAILED', 'BUSY', 'STORE_FAILED', 'TARGET_UNREACHABLE') THEN
        UPDATE atdm.submission AS s
        SET status = 'waiting', request_id = NULL, first_run = NULL, launched_at = NULL
        WHERE s.request_id = settle.request_id AND s.status = 'launched' AND s.attempts < 3;
        GET DIAGNOSTICS again = ROW_COUNT;
    END IF;
    UPDATE atdm.submission AS s
    SET status = 'rejected', answered_at = clock_timestamp(),
        answer = jsonb_build_object('status', 'rejected', 'error', problem)
    WHERE s.request_id = settle.request_id AND s.status = 'launched';
    GET DIAGNOSTICS answered = ROW_COUNT;
END;
$$;
