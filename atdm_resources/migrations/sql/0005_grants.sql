-- Whoever is not named may call nothing and read nothing.

REVOKE ALL ON ALL TABLES IN SCHEMA atdm FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA atdm FROM PUBLIC;
-- Called by CHECK constraints of tables that the application writes to.
GRANT EXECUTE ON FUNCTION atdm.luhn_holds(text) TO PUBLIC;
