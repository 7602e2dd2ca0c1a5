-- What tests made of their data: one row for each run that a test used.

CREATE TABLE atdm.test_outcome (
    outcome_id bigint GENERATED ALWAYS AS IDENTITY,
    session text COLLATE "C" NOT NULL,
    nodeid text COLLATE "C" NOT NULL,
    test_run_id text COLLATE "C" NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    duration_seconds double precision NOT NULL,
    at timestamptz NOT NULL,
    domain text COLLATE "C" NOT NULL,
    scenario_id text COLLATE "C" NOT NULL,
    scenario_version text COLLATE "C" NOT NULL,
    requirement_ids text[] NOT NULL,
    seed bigint NOT NULL,
    recorded_by text NOT NULL DEFAULT session_user,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_test_outcome PRIMARY KEY (outcome_id),
    CONSTRAINT uq_test_outcome UNIQUE (session, nodeid, test_run_id, at),
    CONSTRAINT ck_test_outcome_outcome
        CHECK (outcome IN ('passed', 'failed', 'error', 'skipped'))
);
COMMENT ON TABLE atdm.test_outcome IS
    'As told by whoever may lease. A run that is deleted from the catalog keeps its outcomes.';
COMMENT ON COLUMN atdm.test_outcome.requirement_ids IS
    'Those of the scenario when the outcome was recorded: a file that changes later changes no history.';
CREATE INDEX ix_test_outcome_test_run_id ON atdm.test_outcome (test_run_id);
CREATE INDEX ix_test_outcome_at ON atdm.test_outcome (at);

-- What is wrong with one outcome; NULL: nothing.
CREATE FUNCTION atdm.outcome_problem(item jsonb) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    known text[] := ARRAY['at', 'duration_seconds', 'nodeid', 'outcome', 'session', 'test_run_id'];
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
    FOREACH name IN ARRAY known LOOP
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
-- and at, all of them. What was recorded before is not recorded twice (`repeated`); outcomes of runs
-- that the catalog does not know are left out and named (`unknown`). Raises REQUEST_INVALID with the
-- place and the problem of each wrong one, and records none then.
CREATE FUNCTION atdm.record_outcomes(outcomes jsonb) RETURNS jsonb
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
    SELECT coalesce(jsonb_agg(DISTINCT left(e.item ->> 'test_run_id', 64))
               FILTER (WHERE r.test_run_id IS NULL), '[]'),
           count(r.test_run_id)
    INTO unknown, known
    FROM jsonb_array_elements(outcomes) AS e (item)
    LEFT JOIN atdm.test_run AS r ON r.test_run_id = e.item ->> 'test_run_id';
    INSERT INTO atdm.test_outcome
        (session, nodeid, test_run_id, outcome, duration_seconds, at, domain, scenario_id,
         scenario_version, requirement_ids, seed)
    SELECT e.item ->> 'session', e.item ->> 'nodeid', r.test_run_id, e.item ->> 'outcome',
           (e.item ->> 'duration_seconds')::double precision, (e.item ->> 'at')::timestamptz,
           q.domain, q.scenario_id, q.scenario_version, s.linked_requirement_ids, q.seed
    FROM jsonb_array_elements(outcomes) AS e (item)
    JOIN atdm.test_run AS r ON r.test_run_id = e.item ->> 'test_run_id'
    JOIN atdm.request AS q ON q.request_id = r.request_id
    JOIN atdm.scenario AS s ON s.domain = q.domain AND s.scenario_id = q.scenario_id
        AND s.version = q.scenario_version
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS recorded = ROW_COUNT;
    RETURN jsonb_build_object(
        'recorded', recorded, 'repeated', known - recorded, 'unknown', unknown);
END;
$$;
