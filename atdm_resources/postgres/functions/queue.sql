-- Problems of the fields of a submission, as texts; none: it can be recorded.
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
        found := found || 'build is missing: the owner whose test runs are given back'::text;
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

-- Put something into the queue. Fields: idempotency_key, kind (request | suite_started |
-- suite_finished), priority; scenario (or domain and scenario), constraints, runs, seed, as_of,
-- owner, ttl, cleanup_strategy, reason, secret_sha256 (who claims must know the secret); build,
-- baseline, revoke_leases for suites. The same key twice is one submission; the same key with other
-- values is refused. What names no scenario or no allowed constraint is answered at once.
CREATE OR REPLACE FUNCTION atdm.submit(submission jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    problems text[] := atdm.submission_problems(submission);
    kind text;
    wanted atdm.scenario;
    row_ atdm.submission;
    named text[];
    state text := 'waiting';
    refusal jsonb;
    code text;
    message text;
    detail text;
    key text;
    who text;
BEGIN
    IF problems <> '{}' THEN
        PERFORM atdm.fail('REQUEST_INVALID', array_to_string(problems, '; '),
            jsonb_build_object('refused', to_jsonb(problems)));
    END IF;
    kind := coalesce(submission ->> 'kind', 'request');
    who := coalesce(submission ->> 'invoker', 'human:' || session_user);
    SELECT s.* INTO row_ FROM atdm.submission AS s
    WHERE s.idempotency_key = submission ->> 'idempotency_key';
    IF FOUND THEN
        RETURN atdm.submitted_before(row_, submission);
    END IF;
    IF kind = 'request' THEN
        BEGIN
            named := string_to_array(submission ->> 'scenario', '/');
            IF cardinality(named) > 1 THEN
                wanted := atdm.published(named[1], named[2]);
            ELSE
                wanted := atdm.published(submission ->> 'domain', named[1]);
            END IF;
            key := atdm.pool_key(wanted.domain, wanted.scenario_id, wanted.version,
                atdm.effective_constraints(wanted.parameters, wanted.defaults,
                    coalesce(submission -> 'constraints', '{}')))::text;
            -- Another seed or clock is other data: nobody else's request can give it.
            IF submission ->> 'seed' IS NOT NULL OR submission ->> 'as_of' IS NOT NULL THEN
                key := key || ':' || (submission ->> 'idempotency_key');
            END IF;
        EXCEPTION WHEN SQLSTATE 'AT001' OR SQLSTATE 'AT002' THEN
            GET STACKED DIAGNOSTICS
                code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
            state := 'rejected';
            refusal := jsonb_build_object('status', 'rejected',
                'error', atdm.error_of(code, message, detail));
        END;
    END IF;
    INSERT INTO atdm.submission AS s
        (idempotency_key, kind, status, priority, payload, origin, file_name, invoker,
         secret_sha256, domain, scenario_id, group_key, runs, answer, answered_at)
    VALUES
        (submission ->> 'idempotency_key', kind, state,
         coalesce((submission ->> 'priority')::integer, 0), submission - 'secret_sha256',
         coalesce(submission ->> 'source', 'sql'), submission ->> 'file_name', who,
         decode(submission ->> 'secret_sha256', 'hex'),
         coalesce(wanted.domain, submission ->> 'domain'), wanted.scenario_id, key,
         coalesce((submission ->> 'runs')::integer, 1), refusal,
         CASE WHEN refusal IS NOT NULL THEN clock_timestamp() END)
    ON CONFLICT (idempotency_key) DO NOTHING
    RETURNING s.* INTO row_;
    IF NOT FOUND THEN
        SELECT s.* INTO row_ FROM atdm.submission AS s
        WHERE s.idempotency_key = submission ->> 'idempotency_key';
        RETURN atdm.submitted_before(row_, submission);
    END IF;
    INSERT INTO atdm.audit_event
        (action, status, domain, scenario_id, invoker, source, inputs, outputs)
    VALUES ('submitted', state, row_.domain, row_.scenario_id, who, row_.origin,
        jsonb_build_object('idempotency_key', row_.idempotency_key, 'kind', kind,
            'scenario', submission -> 'scenario', 'constraints', submission -> 'constraints',
            'runs', row_.runs, 'reason', submission -> 'reason', 'build', submission -> 'build'),
        coalesce(refusal, '{}'));
    RETURN atdm.submission_answer(row_) || '{"created": true}';
END;
$$;

-- What anybody who knows the key is told: how it stands, keys or errors, never a token.
CREATE OR REPLACE FUNCTION atdm.submission_answer(row_ atdm.submission) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('idempotency_key', row_.idempotency_key, 'kind', row_.kind,
        'status', row_.status, 'request_id', row_.request_id, 'runs', row_.runs,
        'claimed', row_.claimed_at IS NOT NULL, 'submitted_at', row_.submitted_at,
        'answered_at', row_.answered_at, 'answer', row_.answer)
$$;

CREATE OR REPLACE FUNCTION atdm.submitted_before(row_ atdm.submission, submission jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    told text[] := ARRAY['file_name', 'invoker', 'priority', 'reason', 'secret_sha256', 'source'];
BEGIN
    IF row_.payload - told <> submission - told
        OR row_.secret_sha256 IS DISTINCT FROM decode(submission ->> 'secret_sha256', 'hex')
    THEN
        PERFORM atdm.fail('REQUEST_CONFLICT',
            format('%s was submitted before, with other values', row_.idempotency_key),
            jsonb_build_object('idempotency_key', row_.idempotency_key));
    END IF;
    RETURN atdm.submission_answer(row_) || '{"created": false}';
END;
$$;

-- The submission of a key, if the caller knows its secret (where it has one).
CREATE OR REPLACE FUNCTION atdm.submission_of(idempotency_key text, secret text) RETURNS atdm.submission
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    row_ atdm.submission;
BEGIN
    SELECT s.* INTO row_ FROM atdm.submission AS s
    WHERE s.idempotency_key = submission_of.idempotency_key
      AND (s.secret_sha256 IS NULL
           OR s.secret_sha256 = sha256(convert_to(coalesce(secret, ''), 'UTF8')))
    FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM atdm.fail('RUN_NOT_FOUND',
            format('no submission %s for this secret', left(submission_of.idempotency_key, 200)));
    END IF;
    RETURN row_;
END;
$$;

CREATE OR REPLACE FUNCTION atdm.submission_status(idempotency_key text, secret text DEFAULT NULL)
RETURNS jsonb
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT atdm.submission_answer(atdm.submission_of(idempotency_key, secret))
$$;

-- Lease the runs of a fulfilled submission, once: their tokens are in the answer and nowhere else.
-- Raises RUN_NOT_FOUND (also for a wrong secret), NONE_READY while it waits, the error it was
-- rejected with, REQUEST_CONFLICT the second time.
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
    asked atdm.submission := atdm.submission_of(idempotency_key, secret);
    made atdm.request;
    wanted atdm.scenario;
    run atdm.test_run;
    moment timestamptz := clock_timestamp();
    token text;
    result jsonb[] := '{}';
BEGIN
    IF asked.kind <> 'request' THEN
        PERFORM atdm.fail('REQUEST_INVALID', format('%s asks for no test runs', asked.kind));
    ELSIF asked.status = 'rejected' THEN
        PERFORM atdm.fail(asked.answer #>> '{error,code}', asked.answer #>> '{error,message}',
            coalesce(asked.answer #> '{error,details}', '{}'));
    ELSIF asked.claimed_at IS NOT NULL THEN
        PERFORM atdm.fail('REQUEST_CONFLICT',
            format('the test runs of %s are leased already; their tokens were shown then',
                asked.idempotency_key),
            jsonb_build_object('idempotency_key', asked.idempotency_key));
    END IF;
    SELECT q.* INTO made FROM atdm.request AS q WHERE q.request_id = asked.request_id;
    IF made.status IS DISTINCT FROM 'ready' THEN
        PERFORM atdm.fail('NONE_READY',
            format('%s is %s, its request %s', asked.idempotency_key, asked.status,
                coalesce(made.status, 'not made yet')),
            jsonb_build_object('idempotency_key', asked.idempotency_key, 'status', asked.status));
    END IF;
    PERFORM atdm.enter_domain(made.domain);
    SELECT s.* INTO wanted FROM atdm.scenario AS s
    WHERE s.domain = made.domain AND s.scenario_id = made.scenario_id
      AND s.version = made.scenario_version;
    ttl := atdm.lease_ttl(coalesce(ttl, (asked.payload ->> 'ttl')::interval), wanted.lease_ttl);
    FOR run IN
        SELECT r.* FROM atdm.test_run AS r
        WHERE r.test_run_id >= atdm.run_id(made.request_id, asked.first_run)
          AND r.test_run_id <= atdm.run_id(made.request_id, asked.first_run + asked.runs - 1)
          AND r.status = 'ready'
        ORDER BY r.test_run_id
        FOR UPDATE
    LOOP
        token := atdm.new_token();
        UPDATE atdm.test_run AS r
        SET status = 'leased', token_sha256 = sha256(convert_to(token, 'UTF8')),
            owner = coalesce(claim.owner, asked.payload ->> 'owner', asked.payload ->> 'build',
                session_user),
            owner_secret_sha256 = claim.owner_secret_sha256, leased_at = moment,
            expires_at = moment + ttl,
            cleanup_strategy = coalesce(asked.payload ->> 'cleanup_strategy', 'after_test')
        WHERE r.test_run_id = run.test_run_id
        RETURNING r.* INTO run;
        result := result || atdm.lease_answer(run, wanted, token,
            coalesce(invoker, asked.invoker), coalesce(source, asked.origin));
    END LOOP;
    IF cardinality(result) <> asked.runs THEN
        PERFORM atdm.fail('NONE_READY',
            format('%s of the %s test runs of %s are still ready: they waited too long',
                cardinality(result), asked.runs, asked.idempotency_key),
            jsonb_build_object('idempotency_key', asked.idempotency_key));
    END IF;
    UPDATE atdm.submission AS s SET claimed_at = moment
    WHERE s.submission_id = asked.submission_id;
    RETURN to_jsonb(result);
END;
$$;

-- Answer the submissions of a request that has ended; at most three attempts where trying again may
-- help. Returns how many were answered and how many wait again.
CREATE OR REPLACE FUNCTION atdm.settle(
    request_id text, failure jsonb DEFAULT NULL, OUT answered integer, OUT again integer
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made atdm.request;
    wanted atdm.scenario;
    problem jsonb;
BEGIN
    answered := 0;
    again := 0;
    SELECT q.* INTO made FROM atdm.request AS q WHERE q.request_id = settle.request_id;
    IF made.status = 'pending' OR (made.status IS NULL AND failure IS NULL) THEN
        RETURN;
    END IF;
    IF made.status IN ('ready', 'retired') THEN
        SELECT s.* INTO wanted FROM atdm.scenario AS s
        WHERE s.domain = made.domain AND s.scenario_id = made.scenario_id
          AND s.version = made.scenario_version;
        UPDATE atdm.submission AS s
        SET status = 'fulfilled', answered_at = clock_timestamp(), answer = jsonb_build_object(
            'status', 'ready', 'request_id', made.request_id,
            'test_run_ids', (
                SELECT jsonb_agg(r.test_run_id ORDER BY r.test_run_id) FROM atdm.test_run AS r
                WHERE r.test_run_id >= atdm.run_id(made.request_id, s.first_run)
                  AND r.test_run_id <= atdm.run_id(made.request_id, s.first_run + s.runs - 1)),
            'data', (
                SELECT jsonb_agg(replace(wanted.exposes::text, '{run}', r.test_run_id)::jsonb
                    || coalesce(r.data, '{}') ORDER BY r.test_run_id) FROM atdm.test_run AS r
                WHERE r.test_run_id >= atdm.run_id(made.request_id, s.first_run)
                  AND r.test_run_id <= atdm.run_id(made.request_id, s.first_run + s.runs - 1)))
        WHERE s.request_id = made.request_id AND s.status = 'launched';
        GET DIAGNOSTICS answered = ROW_COUNT;
        RETURN;
    END IF;
    IF made.status = 'rejected' AND (made.error #>> '{details,expected}')::boolean THEN
        UPDATE atdm.submission AS s
        SET status = 'fulfilled', answered_at = clock_timestamp(), answer = jsonb_build_object(
            'status', 'rejected', 'expected', true, 'request_id', made.request_id,
            'violates', made.error #> '{details,failed}')
        WHERE s.request_id = made.request_id AND s.status = 'launched';
        GET DIAGNOSTICS answered = ROW_COUNT;
        RETURN;
    END IF;
    problem := coalesce(made.error, failure,
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
