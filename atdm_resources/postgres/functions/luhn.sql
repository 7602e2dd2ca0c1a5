-- Whether a text of ASCII digits has a valid Luhn check digit; false for any other text. CHECK
-- constraints call it for every loaded row. So it takes ten digits per step, from the right
-- (leading zeros do not change the sum), and sets no search_path (built-in functions come first on
-- any path).
CREATE OR REPLACE FUNCTION atdm.luhn_holds(digits text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
    -- The digit sum of each doubled digit.
    doubled CONSTANT bytea := '\x00020406080103050709';
    bytes bytea;
    total bigint := 0;
BEGIN
    IF digits !~ '^[0-9]+$' THEN
        RETURN false;
    END IF;
    LOOP
        bytes := lpad(right(digits, 10), 10, '0')::bytea;
        total := total - 5 * 48
            + get_byte(doubled, get_byte(bytes, 0) - 48) + get_byte(bytes, 1)
            + get_byte(doubled, get_byte(bytes, 2) - 48) + get_byte(bytes, 3)
            + get_byte(doubled, get_byte(bytes, 4) - 48) + get_byte(bytes, 5)
            + get_byte(doubled, get_byte(bytes, 6) - 48) + get_byte(bytes, 7)
            + get_byte(doubled, get_byte(bytes, 8) - 48) + get_byte(bytes, 9);
        EXIT WHEN length(digits) <= 10;
        digits := left(digits, -10);
    END LOOP;
    RETURN total % 10 = 0;
END;
$$;
