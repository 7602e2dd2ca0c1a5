-- The published scenario of a name. `domain` NULL means the default domain, or the only one that
-- has the scenario. Raises SCENARIO_NOT_FOUND.
CREATE OR REPLACE FUNCTION atdm.published_scenario(domain text, scenario text) RETURNS atdm.scenario
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    chosen atdm.scenario;
BEGIN
    SELECT s.* INTO chosen
    FROM atdm.scenario AS s
    WHERE s.current AND s.scenario_id = published_scenario.scenario AND s.domain = coalesce(
        published_scenario.domain,
        (SELECT t.default_domain FROM atdm.target AS t
         WHERE EXISTS (SELECT FROM atdm.scenario AS o
                       WHERE o.current AND o.scenario_id = published_scenario.scenario
                         AND o.domain = t.default_domain)),
        (SELECT min(o.domain) FROM atdm.scenario AS o
         WHERE o.current AND o.scenario_id = published_scenario.scenario HAVING count(*) = 1));
    IF NOT FOUND THEN
        PERFORM atdm.fail('SCENARIO_NOT_FOUND',
            format('no scenario %s is published in %s', published_scenario.scenario,
                coalesce('domain ' || published_scenario.domain, 'the default domain')),
            jsonb_build_object('scenario', published_scenario.scenario,
                'domain', published_scenario.domain, 'known', (
                    SELECT coalesce(jsonb_agg(DISTINCT s.scenario_id), '[]')
                    FROM atdm.scenario AS s
                    WHERE s.current AND s.domain = coalesce(published_scenario.domain, s.domain))));
    END IF;
    RETURN chosen;
END;
$$;
