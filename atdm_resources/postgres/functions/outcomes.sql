-- The problem of one outcome; NULL if there is none.
CREATE OR REPLACE FUNCTION atdm.outcome_problem(item jsonb) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    needed text[] := ARRAY['at', 'duration_seconds', 'nodeid', 'outcome', 'session', 'test_run_id'];
    known text[] := needed || ARRAY['scenario', 'seed'];
    name text;
BEGIN
    IF jsonb_typeof(item) IS DISTINCT FROM 'object' THEN
        RETURN 'an outcome is a JSON object';
    END IF;
    SELECT k INTO name FROM jsonb_object_keys(item) AS k WHERE k <> ALL (known) ORDER BY k LIMIT 1;
    IF FOUND THEN
        RETURN format('unknown field %s; known: %s', left(name, 64),
            array_to_string(known, ', '));
    END IF;
    FOREACH name IN ARRAY needed LOOP
        IF NOT item ? name OR item -> name = 'null' THEN
            RETURN format('%s is missing', name);
        ELSIF name <> 'duration_seconds' AND jsonb_typeof(item -> name) <> 'string' THEN
            RETURN format('%s must be text', name);
        END IF;
    END LOOP;
    IF length(item ->> 'nodeid') NOT BETWEEN 1 AND 2000 THEN
        RETURN 'nodeid must have 1 to 2000 characters';
    ELSIF length(item ->> 'session') NOT BETWEEN 1 AND 200 THEN
        RETURN 'session must have 1 to 200 characters';
    ELSIF item ->> 'outcome' NOT IN ('passed', 'failed', 'error', 'skipped') THEN
        RETURN format('outcome is %s; allowed: passed, failed, error, skipped',
            left(item ->> 'outcome', 64));
    ELSIF jsonb_typeof(item -> 'duration_seconds') <> 'number'
        OR (item ->> 'duration_seconds')::numeric NOT BETWEEN 0 AND 10000000
    THEN
        RETURN 'duration_seconds must be a number from 0 to 10000000';
    ELSIF item ? 'scenario' <> (item ? 'seed') THEN
        RETURN 'scenario and seed are given together, or neither is';
    ELSIF item ? 'scenario' AND jsonb_typeof(item -> 'scenario') <> 'string' THEN
        RETURN 'scenario must be text like healthcare/active_member_clean';
    ELSIF item ? 'seed' AND (jsonb_typeof(item -> 'seed') <> 'number'
        OR (item ->> 'seed')::numeric NOT BETWEEN 0 AND 9223372036854775807
        OR (item ->> 'seed')::numeric % 1 <> 0)
    THEN
        RETURN 'seed must be a whole number from 0 to 9223372036854775807';
    ELSIF item ->> 'at' !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]' THEN
        RETURN 'at must be a timestamp like 2026-01-31T12:00:00Z';
    END IF;
    BEGIN
        PERFORM (item ->> 'at')::timestamptz;
    EXCEPTION WHEN data_exception THEN
        RETURN 'at must be a timestamp like 2026-01-31T12:00:00Z';
    END;
    RETURN NULL;
END;
$$;

-- Record outcomes: an array of objects with test_run_id, nodeid, outcome, duration_seconds, session
-- and at. This catalog does not know the runs of a clone: their outcomes also have scenario
-- (domain/name) and seed, and count for the version published here. Outcomes that exist are counted
-- (`repeated`). Run ids without a known run or scenario are listed (`unknown`), and their outcomes
-- ignored. Raises REQUEST_INVALID with the place and problem of each wrong outcome, and records
-- none.
CREATE OR REPLACE FUNCTION atdm.record_outcomes(outcomes jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    problems jsonb;
    unknown jsonb;
    known bigint;
    recorded bigint;
BEGIN
    IF jsonb_typeof(outcomes) IS DISTINCT FROM 'array' THEN
        PERFORM atdm.fail('REQUEST_INVALID', 'outcomes must be a JSON array');
    ELSIF jsonb_array_length(outcomes) > 10000 THEN
        PERFORM atdm.fail('REQUEST_INVALID',
            format('%s outcomes at once; allowed: 10000', jsonb_array_length(outcomes)));
    END IF;
    SELECT jsonb_agg(jsonb_build_object('place', w.place - 1, 'problem', w.problem)
                     ORDER BY w.place)
    INTO problems
    FROM (SELECT e.place, p.problem
          FROM jsonb_array_elements(outcomes) WITH ORDINALITY AS e (item, place)
          CROSS JOIN LATERAL atdm.outcome_problem(e.item) AS p (problem)
          WHERE p.problem IS NOT NULL ORDER BY e.place LIMIT 20) AS w;
    IF problems IS NOT NULL THEN
        PERFORM atdm.fail('REQUEST_INVALID',
            (SELECT string_agg(format('outcome %s: %s', w ->> 'place', w ->> 'problem'), '; ')
             FROM jsonb_array_elements(problems) AS w),
            jsonb_build_object('problems', problems));
    END IF;
    WITH received AS (
        SELECT e.item, e.item ->> 'test_run_id' AS test_run_id, s.domain, s.scenario_id, s.version,
               s.linked_requirement_ids, coalesce(q.seed, (e.item ->> 'seed')::bigint) AS seed
        FROM jsonb_array_elements(outcomes) AS e (item)
        LEFT JOIN atdm.test_run AS r ON r.test_run_id = e.item ->> 'test_run_id'
        LEFT JOIN atdm.request AS q ON q.request_id = r.request_id
        LEFT JOIN atdm.scenario AS s
            ON s.domain = coalesce(q.domain, split_part(e.item ->> 'scenario', '/', 1))
            AND s.scenario_id = coalesce(q.scenario_id, split_part(e.item ->> 'scenario', '/', 2))
            AND CASE WHEN q.request_id IS NULL THEN s.current
                     ELSE s.version = q.scenario_version END
    ), added AS (
        INSERT INTO atdm.test_outcome
            (session, nodeid, test_run_id, outcome, duration_seconds, at, domain, scenario_id,
             scenario_version, requirement_ids, seed)
        SELECT t.item ->> 'session', t.item ->> 'nodeid', t.test_run_id, t.item ->> 'outcome',
               (t.item ->> 'duration_seconds')::double precision, (t.item ->> 'at')::timestamptz,
               t.domain, t.scenario_id, t.version, t.linked_requirement_ids, t.seed
        FROM received AS t WHERE t.version IS NOT NULL
        ON CONFLICT DO NOTHING
        RETURNING 1
    )
    SELECT coalesce(jsonb_agg(DISTINCT left(t.test_run_id, 64))
               FILTER (WHERE t.version IS NULL), '[]'),
           count(t.version), (SELECT count(*) FROM added)
    INTO unknown, known, recorded
    FROM received AS t;
    RETURN jsonb_build_object(
        'recorded', recorded, 'repeated', known - recorded, 'unknown', unknown);
END;
$$;
