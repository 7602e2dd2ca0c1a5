-- A constraint value as a value of its type; NULL if it is none. Accepts the same texts as the
-- engine, which checks a request earlier.
CREATE OR REPLACE FUNCTION atdm.typed_value(kind text, value jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO, YMD'
AS $$
DECLARE
    word text := btrim(value #>> '{}');
BEGIN
    IF jsonb_typeof(value) NOT IN ('string', 'number', 'boolean') THEN
        RETURN NULL;
    END IF;
    IF kind = 'text' THEN
        RETURN to_jsonb(value #>> '{}');
    ELSIF kind = 'boolean' THEN
        IF lower(word) IN ('true', 't', 'yes', 'y', 'on', '1') THEN
            RETURN to_jsonb(true);
        ELSIF lower(word) IN ('false', 'f', 'no', 'n', 'off', '0') THEN
            RETURN to_jsonb(false);
        END IF;
        RETURN NULL;
    ELSIF jsonb_typeof(value) = 'boolean' THEN
        RETURN NULL;
    ELSIF kind = 'integer' AND word ~ '^[+-]?[0-9]{1,18}$' THEN
        RETURN to_jsonb(word::bigint);
    ELSIF kind = 'decimal' AND word ~ '^[+-]?[0-9]{1,60}([.][0-9]{1,60})?$' THEN
        RETURN to_jsonb(trim_scale(word::numeric)::text);
    ELSIF kind = 'date' AND word ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' THEN
        RETURN to_jsonb(word::date::text);
    ELSIF kind = 'timestamptz' AND word ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}' THEN
        RETURN to_jsonb(to_char(word::timestamptz, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'));
    END IF;
    RETURN NULL;
EXCEPTION
    WHEN data_exception THEN
        RETURN NULL;
END;
$$;

-- -1, 0 or 1: how two values of one type compare. Texts of numbers compare as numbers.
CREATE OR REPLACE FUNCTION atdm.compare_values(kind text, one jsonb, other jsonb) RETURNS integer
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN kind IN ('integer', 'decimal')
            THEN sign((one #>> '{}')::numeric - (other #>> '{}')::numeric)::integer
        WHEN (one #>> '{}') COLLATE "C" < (other #>> '{}') COLLATE "C" THEN -1
        WHEN (one #>> '{}') COLLATE "C" = (other #>> '{}') COLLATE "C" THEN 0
        ELSE 1
    END
$$;

-- The constraints of a request: `defaults`, overridden by `given`, each value as its type.
-- `parameters` maps names to objects with type and, where they apply, values, min, max and allowed
-- (a text for people). Raises CONSTRAINT_INVALID with every problem.
CREATE OR REPLACE FUNCTION atdm.effective_constraints(parameters jsonb, defaults jsonb, given jsonb)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    result jsonb := defaults;
    problems jsonb := '[]';
    parameter jsonb;
    typed jsonb;
    item record;
BEGIN
    IF jsonb_typeof(given) IS DISTINCT FROM 'object' THEN
        PERFORM atdm.fail('CONSTRAINT_INVALID', 'constraints must be a JSON object');
    END IF;
    FOR item IN SELECT key, value FROM jsonb_each(given) ORDER BY key LOOP
        parameter := parameters -> item.key;
        IF parameter IS NULL THEN
            problems := problems || jsonb_build_object(
                'constraint', item.key, 'found', item.value, 'known', (
                    SELECT coalesce(jsonb_agg(name ORDER BY name), '[]')
                    FROM jsonb_object_keys(parameters) AS name));
            CONTINUE;
        END IF;
        IF item.value = 'null' THEN
            result := result || jsonb_build_object(item.key, NULL);
            CONTINUE;
        END IF;
        typed := atdm.typed_value(parameter ->> 'type', item.value);
        IF typed IS NULL
            OR (parameter ? 'values' AND NOT parameter -> 'values' @> jsonb_build_array(typed))
            OR (parameter ? 'min'
                AND atdm.compare_values(parameter ->> 'type', typed, parameter -> 'min') < 0)
            OR (parameter ? 'max'
                AND atdm.compare_values(parameter ->> 'type', typed, parameter -> 'max') > 0)
        THEN
            problems := problems || jsonb_build_object(
                'constraint', item.key, 'found', item.value, 'allowed', parameter -> 'allowed');
            CONTINUE;
        END IF;
        result := result || jsonb_build_object(item.key, typed);
    END LOOP;
    IF problems <> '[]' THEN
        PERFORM atdm.fail(
            'CONSTRAINT_INVALID',
            (SELECT string_agg(
                CASE WHEN problem ? 'known'
                    THEN format('unknown constraint %s; known: %s', problem ->> 'constraint', (
                        SELECT string_agg(name, ', ')
                        FROM jsonb_array_elements_text(problem -> 'known') AS name))
                    ELSE format('%s: found %s; allowed: %s', problem ->> 'constraint',
                        problem ->> 'found', problem ->> 'allowed')
                END, '; ')
             FROM jsonb_array_elements(problems) AS problem),
            jsonb_build_object('problems', problems));
    END IF;
    RETURN result;
END;
$$;

-- Test runs with the same key are interchangeable. jsonb writes equal objects as equal texts.
CREATE OR REPLACE FUNCTION atdm.pool_key(domain text, scenario text, version text, effective jsonb)
RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT left(encode(sha256(convert_to(
        jsonb_build_array(domain, scenario, version, effective)::text, 'UTF8')), 'hex'), 32)::uuid
$$;
